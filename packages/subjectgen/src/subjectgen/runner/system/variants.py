"""An experiment with some values changed: the variants of a comparison, the values of a strip."""

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


def strip(experiment: Experiment, name: str) -> dict[str, Experiment]:
    """Each value of a strip by what it is called; what its comparison changes in all variants is changed too.

    Raises:
        ConfigError: Mistakes in values, all of them; each names file, line and key.
    """
    settings = experiment.settings.shown_strips()[name]
    comparison = experiment.settings.shown()[settings.comparison]
    return _changed(experiment, comparison.changes, settings.values, f"strips.{name}.values")


def check_changes(experiment: Experiment) -> None:
    """Whether every variant of every comparison, and every value of every strip, is an experiment.

    Raises:
        ConfigError: All mistakes, a line each.
    """
    problems: list[str] = []
    for build, names in ((variants, experiment.settings.shown()), (strip, experiment.settings.shown_strips())):
        for name in names:
            try:
                build(experiment, name)
            except ConfigError as error:
                problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(problems))


def _changed(
    experiment: Experiment, common: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]], where: str
) -> dict[str, Experiment]:
    settings = experiment.settings
    alone = {"comparisons": dict.fromkeys(settings.comparisons), "strips": dict.fromkeys(settings.strips)}
    found, problems = {}, []
    for name, change in changes.items():
        try:
            found[name] = experiment.changed(merge(common, change) | alone, where=f"{where}.{name}")
        except SubjectgenError as error:
            problems += [f"{where}.{name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise ConfigError("\n".join(problems))
    return found
