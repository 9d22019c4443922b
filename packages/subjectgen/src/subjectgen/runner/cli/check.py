"""``subjectgen check``: every mistake that the files alone show, all at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subjectgen.core import ConfigError, SubjectgenError
from subjectgen.runner.cli.options import AsJson, ExperimentPath, Overrides
from subjectgen.runner.cli.progress import Loading

if TYPE_CHECKING:
    from subjectgen.runner.system.experiment import Experiment


def check(
    experiment: ExperimentPath,
    override: Overrides = [],  # noqa: B006
    build: Annotated[bool, typer.Option(help="Also load every part, which checks widths, layers and weights.")] = False,
    count: Annotated[
        bool, typer.Option(help="Like --build, but new parts only as sizes: counts parameters of any model size.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Validate an experiment and print its resolved tree."""
    with Loading("reading the experiment"):
        from subjectgen.runner.cli.experiments import find_experiment
        from subjectgen.runner.system.experiment import Experiment

        read = Experiment.read(file_of(find_experiment(experiment)), override)
        check_files(read)
    tree = read.describe()
    if build or count:
        with Loading("building every part"):
            tree["parts"] = _built(read, count)
    if as_json:
        typer.echo(json.dumps(tree, indent=2, default=str))
    else:
        import yaml

        typer.echo(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip())


def file_of(experiment: str) -> str:
    """The experiment file of a run's folder; a file as it is."""
    inside = Path(experiment) / "experiment.yaml"
    return str(inside) if inside.is_file() else experiment


def check_files(read: Experiment) -> None:
    """What the files alone show beyond single values: names of branches, variants, strips, options of trained weights.

    Raises:
        ConfigError: All of it, a line each.
    """
    from subjectgen.runner.system.variants import check_changes

    problems: list[str] = []
    steps: list[Callable[[], object]] = [
        lambda: read.parts.schedule.build(branches=tuple(read.settings.branches)),
        lambda: _check_trained(read),
        lambda: check_changes(read),
    ]
    for step in steps:
        try:
            step()
        except SubjectgenError as error:
            problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _check_trained(read: Experiment) -> None:
    if read.settings.trained is not None:
        from subjectgen.runner.system.trained import check_options, taught, trained_folder

        check_options(read, trained_folder(read.settings.trained), may_differ=taught(read))


def _built(read: Experiment, count: bool) -> dict[str, object]:
    from subjectgen.runner.system.build import build_system
    from subjectgen.runner.system.trained import load_trained

    if count:
        return build_system(read, device="meta").describe()
    return load_trained(build_system(read)).describe()
