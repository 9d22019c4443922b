"""``subjectgen export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subjectgen.runner.cli.progress import Loading


def export(
    run: Annotated[Path, typer.Argument(help="Folder that `train` wrote.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="New folder.", metavar="FOLDER")],
    step: Annotated[
        int | None, typer.Option(help="Of a checkpoint; by default the run's end, or its newest one.", metavar="N")
    ] = None,
    licence: Annotated[
        str, typer.Option(help="Of the weights, as the hub writes it: apache-2.0 ...", metavar="NAME")
    ] = "other",
) -> None:
    """Write a folder for others to generate from: adapter, aggregators, experiment and a model card.

    `subjectgen generate FOLDER` reads it, and plain diffusers its adapter.
    """
    with Loading("reading the run"):
        from subjectgen.runner.training.export import export as write

        written = write(run, out, step=step, licence=licence)
    typer.echo(f"wrote {written}")
