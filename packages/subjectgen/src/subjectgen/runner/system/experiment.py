"""An experiment file, parsed once: its frame, and its parts as typed objects that everything else walks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from subjectgen.core import ConfigError, SubjectgenError
from subjectgen.core.config import Loaded, load, merge
from subjectgen.core.part import Part
from subjectgen.core.plugins import Plugins
from subjectgen.runner.system.settings import DataSettings, ExperimentSettings


@dataclass(frozen=True, kw_only=True)
class BranchParts:
    """The parts of one branch."""

    encoder: Part
    aggregator: Part | None
    injector: Part

    def __iter__(self) -> Iterator[Part]:
        return iter([part for part in (self.encoder, self.aggregator, self.injector) if part is not None])


@dataclass(frozen=True, kw_only=True)
class SourcePart:
    """A data set of training, and its share of the rows."""

    part: Part
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ComparisonParts:
    """The parts of one comparison."""

    dataset: Part
    metrics: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class ExperimentParts:
    """All parts that an experiment names."""

    branches: Mapping[str, BranchParts]
    backbone: Part
    autoencoder: Part
    schedule: Part
    finder: Part | None
    sources: tuple[tuple[SourcePart, ...], ...]
    """Data of each phase of training; empty where nobody names any."""
    comparisons: Mapping[str, ComparisonParts]

    def model(self) -> Iterator[Part]:
        """Parts that trained weights depend on, in the file's order."""
        yield from (part for branch in self.branches.values() for part in branch)
        yield from (self.backbone, self.autoencoder, self.schedule)

    def __iter__(self) -> Iterator[Part]:
        yield from self.model()
        found = [self.finder, *(source.part for sources in self.sources for source in sources)]
        yield from {part.where: part for part in found if part is not None}.values()
        for comparison in self.comparisons.values():
            yield from (comparison.dataset, *comparison.metrics)


class Experiment:
    """A validated experiment file, its parts, and where each value came from."""

    def __init__(self, loaded: Loaded, plugins: Plugins) -> None:
        """Parse everything that the file alone decides; nothing is built.

        Raises:
            ConfigError: All mistakes of the file, a line each: file, line, key, value, expectation, nearest choice.
        """
        self.loaded, self.plugins = loaded, plugins
        self.settings, self.parts = _parsed(loaded, plugins)

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], overrides: Iterable[str] = (), plugins: Plugins | None = None
    ) -> Experiment:
        """Read a YAML file; ``plugins``: where components are found, by default all that are installed.

        Raises:
            ConfigError: As for the constructor.
        """
        return cls(load(path, overrides), plugins or Plugins.discover())

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.settings.name or Path(self.loaded.file).stem

    @property
    def values(self) -> Mapping[str, Any]:
        """The resolved tree, as plain values."""
        return self.loaded.values

    def changed(self, change: Mapping[str, Any], *, where: str = "") -> Experiment:
        """The experiment with some values changed.

        Args:
            change: A tree of the experiment's keys.
            where: Key path of the change in the file, for messages.

        Raises:
            ConfigError: The changed experiment has mistakes.
        """
        return Experiment(changed(self.loaded, change, where=where), self.plugins)

    def training_sources(self) -> tuple[tuple[SourcePart, ...], ...]:
        """The data of each phase of training.

        Raises:
            ConfigError: No training, or a phase without data.
        """
        if self.settings.training is None:
            raise ConfigError(f"{self.loaded.file}: training: missing; expected dataset and phases")
        for number, sources in enumerate(self.parts.sources):
            if not sources:
                raise ConfigError(
                    f"{self.loaded.file}: training.dataset: missing, and training.phases.{number} names none; expected "
                    "a component of kind datasets, such as --set 'training.dataset={name: toy_pairs}'"
                )
        return self.parts.sources

    def describe(self) -> dict[str, Any]:
        """The frame with every part's options, defaults filled in, as plain values."""
        tree: dict[str, Any] = self.settings.model_dump(mode="json")
        for part in self.parts:
            *path, last = part.where.split(".")
            inner: Any = tree
            for step in path:
                inner = inner[int(step)] if isinstance(inner, list) else inner[step]
            inner[last if isinstance(inner, dict) else int(last)] = {
                "name": part.name,
                **part.config.model_dump(mode="json"),
            }
        return tree


def changed(loaded: Loaded, change: Mapping[str, Any], *, where: str) -> Loaded:
    """A file's values with a change that stands elsewhere in it; lines of changed keys are those of the change."""
    prefix = f"{where}."
    lines = {key.removeprefix(prefix): line for key, line in loaded.lines.items() if key.startswith(prefix)}
    return replace(loaded, values=merge(loaded.values, change), lines={**loaded.lines, **lines})


# ------------------------------------------------------------------------------------------------------- parsing


def _parsed(loaded: Loaded, plugins: Plugins) -> tuple[ExperimentSettings, ExperimentParts]:
    """Frame and parts. Mistakes of both are told at once, so parts are looked for in the plain values."""
    problems: list[str] = []
    parts: dict[str, Part] = {}
    settings: ExperimentSettings | None = None
    try:
        settings = loaded.validate(ExperimentSettings)
    except ConfigError as error:
        problems += str(error).splitlines()
    for kind, where, spec in _specs(loaded.values):
        try:
            parts[where] = plugins.part(kind, spec, where=where, file=loaded.file, lines=loaded.lines)
        except SubjectgenError as error:
            problems += str(error).splitlines()
    if settings is None or problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return settings, _arranged(settings, parts)


def _specs(values: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Kind, key path and values of everything that looks like a part, wherever an experiment may name one."""
    for name, branch in _mapping(values.get("branches")).items():
        for key in ("encoder", "aggregator", "injector"):
            yield from _spec(f"{key}s", f"branches.{name}.{key}", _mapping(branch).get(key))
    for key in ("backbone", "autoencoder", "schedule", "finder"):
        yield from _spec(f"{key}s", key, values.get(key))
    training = _mapping(values.get("training"))
    yield from _data(training, "training")
    for number, phase in enumerate(_sequence(training.get("phases"))):
        yield from _data(_mapping(phase), f"training.phases.{number}")
    for name, comparison in _mapping(values.get("comparisons")).items():
        yield from _spec("datasets", f"comparisons.{name}.dataset", _mapping(comparison).get("dataset"))
        for number, metric in enumerate(_sequence(_mapping(comparison).get("metrics"))):
            yield from _spec("metrics", f"comparisons.{name}.metrics.{number}", metric)


def _data(values: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    yield from _spec("datasets", f"{where}.dataset", values.get("dataset"))
    for number, source in enumerate(_sequence(values.get("mixture"))):
        yield from _spec("datasets", f"{where}.mixture.{number}.dataset", _mapping(source).get("dataset"))


def _spec(kind: str, where: str, spec: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    if isinstance(spec, Mapping):  # what is no mapping, the frame refuses
        yield kind, where, spec


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _arranged(settings: ExperimentSettings, parts: Mapping[str, Part]) -> ExperimentParts:
    phases = settings.training.phases if settings.training else ()
    return ExperimentParts(
        branches={
            name: BranchParts(
                encoder=parts[f"branches.{name}.encoder"],
                aggregator=parts.get(f"branches.{name}.aggregator"),
                injector=parts[f"branches.{name}.injector"],
            )
            for name in settings.branches
        },
        backbone=parts["backbone"],
        autoencoder=parts["autoencoder"],
        schedule=parts["schedule"],
        finder=parts.get("finder"),
        sources=tuple(
            _sources(phase, f"training.phases.{number}", parts) or _sources(settings.training, "training", parts)
            for number, phase in enumerate(phases)
        ),
        comparisons={
            name: ComparisonParts(
                dataset=parts[f"comparisons.{name}.dataset"],
                metrics=tuple(parts[f"comparisons.{name}.metrics.{n}"] for n in range(len(comparison.metrics))),
            )
            for name, comparison in settings.shown().items()
        },
    )


def _sources(data: DataSettings | None, where: str, parts: Mapping[str, Part]) -> tuple[SourcePart, ...]:
    if data is None:
        return ()
    if data.mixture is not None:
        return tuple(
            SourcePart(part=parts[f"{where}.mixture.{number}.dataset"], weight=source.weight)
            for number, source in enumerate(data.mixture)
        )
    return (SourcePart(part=parts[f"{where}.dataset"]),) if data.dataset is not None else ()
