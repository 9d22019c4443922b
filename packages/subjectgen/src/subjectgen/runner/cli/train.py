"""``subjectgen train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subjectgen.core import InputError
from subjectgen.runner.cli.options import Device, OptionalExperiment, Overrides
from subjectgen.runner.cli.progress import Loading


def train(
    experiment: OptionalExperiment = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the run.", metavar="FOLDER")] = None,
    override: Overrides = [],  # noqa: B006  # typer copies it
    device: Device = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the run in this folder.", metavar="RUN")
    ] = None,
) -> None:
    """Train an experiment in its phases, from untrained parts or from those it names as trained.

    Writes a run directory, from which a run that was ended goes on: --resume RUN.
    """
    if (resume is None) == (experiment is None or out is None):
        raise InputError("train: expected an experiment and --out FOLDER, or --resume RUN")
    if resume is not None and (experiment is not None or out is not None):
        raise InputError("--resume: a run goes on with its own experiment in its own folder; leave out the others")
    with Loading("reading the experiment"):
        from subjectgen.runner.training.run import experiment_of

        if resume is None:
            from subjectgen.runner.cli.experiments import find_experiment
            from subjectgen.runner.system.experiment import Experiment

            assert experiment is not None
            read = Experiment.read(find_experiment(experiment), override)
        else:
            read = experiment_of(resume, override)
        read.training_sources()
        from subjectgen.runner.cli.memory_advice import explained_memory
        from subjectgen.runner.system.devices import chosen_device
        from subjectgen.runner.training.run import resume as go_on, train as begin

    place = chosen_device(device)
    with explained_memory(read, device=place, training=True):
        if resume is not None:
            result = go_on(resume, overrides=override, device=place)
        else:
            assert out is not None
            result = begin(read, out, device=place)
    if not result.main:
        return
    for phase, loss in result.losses.items():
        typer.echo(f"{phase}: loss {loss:.4f}")
    typer.echo(f"wrote {result.folder}")
