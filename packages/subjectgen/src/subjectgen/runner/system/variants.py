"""An experiment with some values changed: the variants of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from subjectgen.core import ConfigError, SubjectgenError
from subjectgen.core.config import merge
from subjectgen.runner.system.experiment import Experiment


def variants(experiment: Experiment, name: str) -> dict[str, Experiment]:
    """Each variant of a comparison by name.

    Raises:
        ConfigError: Mistakes in variants, all of them; each names file, line and key.
    """
    settings = experiment.settings.shown()[name]
    return _changed(experiment, settings.changes, settings.variants, f"comparisons.{name}.variants")


def check_changes(experiment: Experiment) -> None:
    """Whether every variant of every comparison is an experiment.

    Raises:
        ConfigError: All mistakes, a line each.
    """
    problems: list[str] = []
    for name in experiment.settings.shown():
        try:
            variants(experiment, name)
        except ConfigError as error:
            problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(problems))


def _changed(
    experiment: Experiment, common: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]], where: str
) -> dict[str, Experiment]:
    alone = {"comparisons": dict.fromkeys(experiment.settings.comparisons)}
    found, problems = {}, []
    for name, change in changes.items():
        try:
            found[name] = experiment.changed(merge(common, change) | alone, where=f"{where}.{name}")
        except SubjectgenError as error:
            problems += [f"{where}.{name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise ConfigError("\n".join(problems))
    return found
