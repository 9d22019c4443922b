"""What the commands about data sets take: a mapping, an experiment by file or name, a run's folder."""

from __future__ import annotations

from collections.abc import Sequence

from subjectgen.core import ConfigError, InputError
from subjectgen.core.part import Part
from subjectgen.runner.cli.check import file_of
from subjectgen.runner.cli.experiments import find_experiment
from subjectgen.runner.data.specs import find_datasets, is_written_out


def found_datasets(spec: str, overrides: Sequence[str]) -> tuple[Part, ...]:
    """The data sets that are meant.

    Raises:
        ConfigError: Neither a mapping nor an experiment, or one with mistakes.
    """
    if is_written_out(spec):
        return find_datasets(spec, overrides)
    try:
        file = file_of(find_experiment(spec))
    except InputError as error:
        raise ConfigError(f"{error}; a data set by itself is written '{{name: image_pairs, folder: ...}}'") from None
    return find_datasets(file, overrides)
