"""``subjectgen train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subjectgen.core import InputError
from subjectgen.runner.cli.options import Device, ExperimentPath, Overrides
from subjectgen.runner.cli.progress import Loading


def train(
    experiment: ExperimentPath,
    out: Annotated[Path, typer.Option(help="New folder for the run.", metavar="FOLDER")],
    override: Overrides = [],  # noqa: B006  # typer copies it
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", hidden=True)] = False,
) -> None:
    """Train an experiment in its phases, from untrained parts or from those it names as trained.

    Writes a run directory.
    """
    if resume:
        raise InputError("--resume: not yet; to go on from a run's weights: --set trained=RUN --out ANOTHER")
    with Loading("reading the experiment"):
        from subjectgen.runner.cli.experiments import find_experiment
        from subjectgen.runner.system.experiment import Experiment

        read = Experiment.read(find_experiment(experiment), override)
        read.training_datasets()
        from subjectgen.runner.cli.memory_advice import explained_memory
        from subjectgen.runner.system.devices import chosen_device
        from subjectgen.runner.training.trainer import train as run

    place = chosen_device(device)
    with explained_memory(read, device=place, training=True):
        result = run(read, out, device=place)
    for phase, loss in result.losses.items():
        typer.echo(f"{phase}: loss {loss:.4f}")
    typer.echo(f"wrote {result.folder}")
