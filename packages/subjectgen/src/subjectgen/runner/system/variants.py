"""The variants of a comparison, as experiments."""

from __future__ import annotations

from collections.abc import Iterator

from subjectgen.core import ConfigError, SubjectgenError
from subjectgen.runner.system.experiment import Experiment


def variants(experiment: Experiment, name: str) -> Iterator[tuple[str, Experiment]]:
    """Each variant of a comparison by name.

    Raises:
        ConfigError: Mistakes in variants, all of them; each names file, line and key.
    """
    settings = experiment.settings.shown()[name]
    found, problems = {}, []
    for variant, change in settings.all_changes().items():
        where = f"comparisons.{name}.variants.{variant}"
        alone = {**change, "comparisons": dict.fromkeys(experiment.settings.comparisons)}
        try:
            found[variant] = experiment.changed(alone, where=where)
        except SubjectgenError as error:
            problems += [f"{where}: {line}" for line in str(error).splitlines()]
    if problems:
        raise ConfigError("\n".join(problems))
    yield from found.items()
