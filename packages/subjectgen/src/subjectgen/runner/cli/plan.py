"""``subjectgen plan``."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from subjectgen.runner.cli.options import AsJson, ExperimentPath, Overrides
from subjectgen.runner.cli.progress import Loading


def plan(
    experiment: ExperimentPath,
    references: Annotated[int, typer.Option(help="Reference pictures.")] = 1,
    reference_size: Annotated[int, typer.Option(help="Pixels of a reference's side.")] = 512,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 128,
    batch: Annotated[int, typer.Option(help="Images generated at once.")] = 1,
    utilisation: Annotated[float, typer.Option(help="Share of an accelerator's peak that is reached.")] = 0.5,
    accelerator: Annotated[
        list[str], typer.Option(help="H200, A100-80 ...; by default all. May be repeated.", metavar="NAME")
    ] = [],  # noqa: B006
    override: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Tell parameters, tokens, operations, memory and time of an experiment of any size, without its weights."""
    with _no_collector(), Loading("counting"):
        from subjectgen.runner.cli.experiments import find_experiment
        from subjectgen.runner.system.experiment import Experiment

        read = Experiment.read(find_experiment(experiment), override)
        from subjectgen.runner.planning.estimate import Question, estimate
        from subjectgen.runner.planning.report import as_text

        question = Question(
            references=references,
            reference_size=reference_size,
            prompt_tokens=prompt_tokens,
            batch=batch,
            utilisation=utilisation,
            accelerators=tuple(accelerator),
        )
        made = estimate(read, question)
    typer.echo(json.dumps(made, indent=2) if as_json else as_text(made))


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without looking for garbage among the libraries' millions of objects: a tenth of the seconds of a plan."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
