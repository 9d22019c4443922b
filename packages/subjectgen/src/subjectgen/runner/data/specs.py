"""Which data sets a command is about: one that is written out, or those that an experiment trains on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from subjectgen.core import ConfigError
from subjectgen.core.config import loads
from subjectgen.core.part import Part
from subjectgen.core.plugins import Plugins
from subjectgen.runner.system.experiment import Experiment

SPEC = "SPEC"
"""What messages call it."""


def is_written_out(spec: str) -> bool:
    """Whether it is a mapping, ``{name: uno_1m, labels: ...}``, and not the name of a file."""
    return spec.lstrip().startswith("{")


def find_datasets(spec: str, overrides: Iterable[str] = (), plugins: Plugins | None = None) -> tuple[Part, ...]:
    """The data sets, each once.

    Args:
        spec: A component of kind datasets as YAML writes it, or an experiment's file, whose training's are meant.
        overrides: Of the mapping's, or the experiment's keys.
        plugins: Where components are found; by default all that are installed.

    Raises:
        ConfigError: A mistake in the mapping or the file, or an experiment that trains on nothing.
        ComponentError: A data set that is not installed.
    """
    host = plugins or Plugins.discover()
    if is_written_out(spec):
        loaded = loads(spec, overrides, file=SPEC)
        if "name" not in loaded.values:
            raise ConfigError(f"{SPEC}: name: missing; expected a component of kind datasets, such as {{name: uno_1m}}")
        return (host.part("datasets", loaded.values, file=SPEC, lines=loaded.lines),)
    if not Path(spec).exists():
        raise ConfigError(
            f"{SPEC}: got {spec!r}; expected an experiment's file, or a mapping such as '{{name: uno_1m}}'"
        )
    sources = Experiment.read(spec, overrides, plugins=host).training_sources()
    parts = [source.part for phase in sources for source in phase]
    return tuple({part.identity: part for part in parts}.values())
