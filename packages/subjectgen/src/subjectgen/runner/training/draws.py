"""Everything of one optimizer step that chance decides: drawn here, once, from the run's generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import ActiveBranches, Sample, Schedule, Visibility
from subjectgen.runner.generation.passes import grouped
from subjectgen.runner.system.system import System


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingBatch:
    """The rows of one optimizer step; given it, the step is a function without chance, but for dropout of weights."""

    samples: Sequence[Sample]
    data: Sequence[Float[Tensor, "c _ _"]]
    """Latents of the targets; sizes may differ between rows."""
    noise: Sequence[Float[Tensor, "c _ _"]]
    """Of the same sizes."""
    timesteps: Float[Tensor, " n"]
    """In (0, 1], float64."""
    active: Sequence[ActiveBranches]
    """What each branch sees of each row: the stage's mask, thinned by dropout."""
    stages: Sequence[str]
    """For the log."""


def draw_batch(
    system: System,
    schedule: Schedule,
    samples: Sequence[Sample],
    data: Sequence[Float[Tensor, "c _ _"]],
    *,
    generator: torch.Generator,
) -> TrainingBatch:
    """Draw timesteps, dropout and noise, in this order; where targets differ in size, for one size after another.

    Args:
        system: For the number of tokens that a target has.
        schedule: The phase's.
        samples: Prompts and references.
        data: Latents of their targets.
        generator: On the CPU, so that numbers do not depend on the device.
    """
    timesteps = torch.zeros(len(samples), dtype=torch.float64)
    hidden: dict[int, Mapping[str, Visibility]] = {}
    noise: dict[int, Tensor] = {}
    for rows in grouped([latents.shape for latents in data]):
        latents = data[rows[0]]
        grid = system.target_grid(latents.shape[1:])
        timesteps[rows] = schedule.sample_timesteps(
            len(rows), image_tokens=grid[0] * grid[1], generator=generator
        ).double()
        outcomes = schedule.sample_dropout(len(rows), generator=generator)
        drawn = torch.randn((len(rows), *latents.shape), generator=generator).to(latents)
        hidden |= dict(zip(rows, outcomes, strict=True))
        noise |= dict(zip(rows, drawn, strict=True))
    times = timesteps.tolist()
    return TrainingBatch(
        samples=samples,
        data=data,
        noise=[noise[row] for row in range(len(samples))],
        timesteps=timesteps,
        active=[schedule.active(t).restricted(hidden[row]) for row, t in enumerate(times)],
        stages=[schedule.stage(t) for t in times],
    )
