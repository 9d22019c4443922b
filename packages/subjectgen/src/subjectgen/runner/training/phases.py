"""A phase of training: its own branches, at every timestep or as the stages say, its data and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import EVERYTHING, NOTHING, ActiveBranches, ConfigError, Guidance, Schedule, Visibility
from subjectgen.runner.system.settings import PhaseSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.training.batches import TrainingData


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """A stretch of training, with everything it needs."""

    name: str
    settings: PhaseSettings
    schedule: Schedule
    data: TrainingData
    parameters: list[torch.nn.Parameter]
    optimizer: Any


def phase_name(system: System, phase: PhaseSettings) -> str:
    """What the phase is called: its name, or its branches."""
    return phase.name or "+".join(_branches(system, phase))


def phase_schedule(system: System, phase: PhaseSettings) -> Schedule:
    """The experiment's schedule with ``stage_masks``; without, the phase's branches speak at every timestep.

    Raises:
        ConfigError: ``stage_masks`` in a phase without some of the branches: a stage could be left with none.
    """
    names = _branches(system, phase)
    if not phase.stage_masks:
        return EveryTimestep(system.schedule, _visibility(system, names))
    absent = [name for name in system.branches if name not in names]
    if absent:
        raise ConfigError(
            f"training.phases: phase {phase_name(system, phase)}: stage_masks: true, but its branches lack "
            f"{', '.join(absent)}, without which a stage may have none; expected all branches, or stage_masks: false"
        )
    return system.schedule


def _branches(system: System, phase: PhaseSettings) -> tuple[str, ...]:
    return phase.branches or tuple(system.branches)


def _visibility(system: System, names: tuple[str, ...]) -> dict[str, Visibility]:
    return {name: EVERYTHING if name in names else NOTHING for name in system.branches}


class EveryTimestep:
    """A schedule whose stages are suspended: the same branches speak at every timestep, the others never.

    The others take no part in the phase, so they leave the sequence also where the schedule says ``inactive: zero``.
    """

    def __init__(self, schedule: Schedule, visibility: Mapping[str, Visibility]) -> None:
        """``schedule`` decides everything else: the grid, the draw of timesteps and of dropout, guidance."""
        self._schedule = schedule
        self._active = ActiveBranches(visibility=visibility)
        self.steps = schedule.steps

    def active(self, timestep: float) -> ActiveBranches:
        """The same branches at every timestep."""
        return self._active

    def stage(self, timestep: float) -> str:
        """One stage."""
        return "all"

    def timesteps(self, steps: int | None = None, *, image_tokens: int | None = None) -> Float[Tensor, " n"]:
        """The schedule's grid."""
        return self._schedule.timesteps(steps, image_tokens=image_tokens)

    def guidance(self, timestep: float) -> Guidance:
        """The schedule's guidance."""
        return self._schedule.guidance(timestep)

    def sample_timesteps(
        self, count: int, *, image_tokens: int | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n"]:
        """The schedule's draw."""
        return self._schedule.sample_timesteps(count, image_tokens=image_tokens, generator=generator)

    def sample_dropout(self, count: int, *, generator: torch.Generator | None = None) -> list[Mapping[str, Visibility]]:
        """The schedule's draw."""
        return self._schedule.sample_dropout(count, generator=generator)
