"""What a run's numbers follow from, as values that a checkpoint keeps; a run goes on only where none has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from subjectgen.core import Changes, ConfigError
from subjectgen.core.part import Part
from subjectgen.core.roles import values
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.training import order

DATA = ("dataset", "mixture")


def meaning_of(experiment: Experiment, data: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Everything that changes weights or results, by key path.

    Args:
        experiment: With training.
        data: Of each phase and source, what says whether its samples are the same.
    """
    settings = experiment.settings
    assert settings.training is not None
    found: dict[str, Any] = {"order": order.VERSION, "seed": settings.seed}
    for part in experiment.parts.model():
        found |= _part(part)
    frame = _values(settings.training)
    found |= {f"training.{key}": value for key, value in frame.items() if not _names_data(key)}
    found |= {f"image.{key}": value for key, value in _values(settings.image).items()}
    for phase, (sources, facts) in enumerate(zip(experiment.parts.sources, data, strict=True)):
        for number, (source, fact) in enumerate(zip(sources, facts, strict=True)):
            where = f"training.phases.{phase}.data.{number}"
            found |= {f"{where}.weight": source.weight, **_part(source.part, where)}
            found |= {f"{where}.{key}": value for key, value in fact.items()}
    return found


def check_same(then: Mapping[str, Any], now: Mapping[str, Any], run: str) -> None:
    """Whether a run may go on under what is asked for now.

    Raises:
        ConfigError: Names each key that differs, both values, and the way out.
    """
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if not keys:
        return
    lines = [f"{run}: {key}: began with {_said(then, key)}; now {_said(now, key)}" for key in keys]
    way = (
        f"{run}: a run goes on only with the numbers it began with (devices, workers, micro_batch, processes, logging "
        f"and saving may change); to train on from its weights with others: --set trained={run} --out ANOTHER"
    )
    raise ConfigError("\n".join([*lines, way]))


def _said(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "nothing"


def _part(part: Part, where: str | None = None) -> dict[str, Any]:
    where = where or part.where
    both = {**part.values(Changes.WEIGHTS), **part.values(Changes.RESULTS)}
    return {f"{where}.name": part.name, **{f"{where}.{key}": value for key, value in both.items()}}


def _values(config: Any) -> dict[str, Any]:
    return {**values(config, Changes.WEIGHTS), **values(config, Changes.RESULTS)}


def _names_data(key: str) -> bool:
    """Data sets are compared as parts, whose paths may change."""
    return any(name in key.split(".") for name in DATA)
