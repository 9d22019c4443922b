"""A phase of training: its branches, what is trained, its data in its order, its schedule and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core import (
    EVERYTHING,
    NOTHING,
    ActiveBranches,
    ConfigError,
    Dataset,
    Guidance,
    HasSizes,
    Schedule,
    Visibility,
    nearest,
)
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.settings import PhaseSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.training.learning_rate import learning_rate
from subjectgen.runner.training.losses import Loss
from subjectgen.runner.training.order import Order, Source


@dataclass(frozen=True, kw_only=True, eq=False)
class PhaseData:
    """The data sets of a phase and the order of their samples."""

    datasets: tuple[Dataset, ...]
    order: Order


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """A stretch of training, with everything it needs."""

    number: int
    name: str
    settings: PhaseSettings
    schedule: Schedule
    data: PhaseData
    loss: Loss
    parameters: list[nn.Parameter]
    """What the optimizer changes."""
    optimizer: Any


def phase_data(experiment: Experiment) -> list[PhaseData]:
    """The data of each phase; data sets that are built alike are built once.

    Raises:
        ConfigError: No training, or a phase without a data set.
        InputError: An empty data set, or one whose targets fill no batch of one size.
    """
    settings = experiment.settings.training
    built: dict[str, Dataset] = {}
    found = []
    for number, sources in enumerate(experiment.training_sources()):
        assert settings is not None  # or there would be no sources
        for source in sources:
            if source.part.identity not in built:
                built[source.part.identity] = source.part.build()
        datasets = tuple(built[source.part.identity] for source in sources)
        described = [
            Source(
                name=source.part.place,
                samples=len(dataset),
                weight=source.weight,
                buckets=_buckets(dataset) if settings.buckets else None,
            )
            for source, dataset in zip(sources, datasets, strict=True)
        ]
        made = Order(described, seed=experiment.settings.seed, phase=number, batch_size=settings.batch_size)
        found.append(PhaseData(datasets=datasets, order=made))
    return found


def _buckets(dataset: Dataset) -> tuple[tuple[int, int] | str, ...]:
    """The size of each target; all alike where the data set says of none."""
    if isinstance(dataset, HasSizes):
        return tuple((int(height), int(width)) for height, width in dataset.sizes)
    return ("one size",) * len(dataset)


def phase_name(system: System, phase: PhaseSettings) -> str:
    """What the phase is called: its name, or its branches."""
    return phase.name or "+".join(_branches(system, phase))


def phase_parameters(system: System, phase: PhaseSettings) -> dict[str, nn.Parameter]:
    """What a phase changes: what its branches use, or of that what ``train`` names.

    Raises:
        ConfigError: Nothing to train, or a name in ``train`` that is none.
    """
    named = system.trainable(phase.branches)
    if phase.train is not None:
        for name in phase.train:
            if not any(_within(key, name) for key in named):
                places = sorted({key.rpartition(".")[0] for key in named} | {"backbone", *system.branch_modules()})
                raise ConfigError(
                    f"training.phases: phase {phase_name(system, phase)}: train: nothing trainable begins with {name!r}"
                    f"{nearest(name, places)}"
                )
        named = {key: value for key, value in named.items() if any(_within(key, name) for name in phase.train)}
    if not named:
        raise ConfigError(
            f"training.phases: phase {phase_name(system, phase)}: nothing to train; set backbone.lora or use an "
            "aggregator"
        )
    return named


def new_phase(system: System, number: int, data: PhaseData, loss: Loss) -> Phase:
    """A phase of the system's experiment, with a fresh optimizer."""
    training = system.experiment.settings.training
    assert training is not None  # or there would be no data
    settings = training.phases[number]
    parameters = list(phase_parameters(system, settings).values())
    rate = learning_rate(0, settings, training)
    return Phase(
        number=number,
        name=f"phase {number + 1} ({phase_name(system, settings)})",
        settings=settings,
        schedule=phase_schedule(system, settings),
        data=data,
        loss=loss,
        parameters=parameters,
        optimizer=torch.optim.AdamW(parameters, lr=rate, weight_decay=training.weight_decay),
    )


def _within(key: str, place: str) -> bool:
    return key == place or key.startswith(f"{place}.")


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
