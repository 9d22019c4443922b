"""Stages over the timestep: which comes when, and what each branch sees in it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from subjectgen.core import ConfigError, InputError, Visibility


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of denoising. Stages follow each other as t falls from 1 to 0."""

    name: str
    sees: Mapping[str, Visibility]
    """What each branch sees; names every branch of the experiment."""
    until: float = 0.0
    """The last timestep that belongs to it: it holds for t >= until where no stage before it does. 0 for the last
    stage. Above 1 it never holds, at t = 1 neither."""


class Stages:
    """Stages that share [0, 1] between them, found by timestep."""

    def __init__(self, stages: Sequence[Stage], branches: Sequence[str]) -> None:
        """Check and keep them.

        Raises:
            ConfigError: two stages of one name, boundaries that rise, no stage that reaches 0, a stage that does not
                name every branch, or one that can hold and in which no branch sees anything.
        """
        self._check(stages, branches)
        self.by_name = {stage.name: stage for stage in stages}
        self._until = [(stage.name, _boundary(stage.until)) for stage in stages]
        for stage in self._possible(stages):
            if all(seen.nothing for seen in stage.sees.values()):
                raise ConfigError(
                    f"schedule.{stage.name}: no branch is left of {', '.join(branches)}; expected at least one"
                    " (schedule 'always_on' needs no stages)"
                )

    def at(self, timestep: float) -> str:
        """Name of the stage at a timestep in [0, 1].

        Timesteps and boundaries are compared as numbers of 32 bits, so that a timestep that was kept in such a tensor
        is in the stage of its original: in 64 bits float32's 0.95 is less than 0.95. Less than 1e-7 below a boundary
        may therefore count as on it.

        Raises:
            InputError: a timestep outside [0, 1].
        """
        if not 0 <= timestep <= 1:
            raise InputError(f"timestep: {timestep} is outside [0, 1]; 1 is pure noise, 0 is data")
        rounded = _single(timestep)
        return next(name for name, until in self._until if rounded >= until)

    @staticmethod
    def _check(stages: Sequence[Stage], branches: Sequence[str]) -> None:
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            raise ConfigError(f"stages: got {', '.join(names)}; expected different names")
        if not stages or stages[-1].until > 0:
            raise ConfigError(
                f"stages: none of {', '.join(names) or 'no stages'} reaches t = 0; expected until: 0 last"
            )
        for one, other in pairwise(stages):
            if one.until < other.until:
                raise ConfigError(
                    f"stages: {one.name} ends at {one.until:g}, below {other.name} at {other.until:g}; expected "
                    "boundaries that fall"
                )
        for stage in stages:
            if set(stage.sees) != set(branches):
                raise ConfigError(
                    f"stages: {stage.name} says what {', '.join(stage.sees)} see; expected all of {', '.join(branches)}"
                )

    def _possible(self, stages: Sequence[Stage]) -> list[Stage]:
        """Stages that hold at some timestep."""
        above = [float("inf"), *(until for _, until in self._until)]
        return [s for s, until, before in zip(stages, above[1:], above, strict=False) if until <= 1 and until < before]


def _boundary(until: float) -> float:
    return float("inf") if until > 1 else _single(until)


def _single(value: float) -> float:
    """The nearest number of 32 bits."""
    return float(struct.unpack("f", struct.pack("f", value))[0])
