"""Everything of one optimizer step that chance decides: drawn here, row by row, each from a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import ActiveBranches, Sample, Schedule
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
    seeds: Sequence[int],
    grid: Float[Tensor, " n"] | None = None,
) -> TrainingBatch:
    """Draw timestep, dropout and noise of each row, in this order; a row's draws do not depend on the other rows.

    Args:
        system: For the number of tokens that a target has.
        schedule: The phase's.
        samples: Prompts and references.
        data: Latents of their targets.
        seeds: Of each row.
        grid: Timesteps to draw from, all but the last alike; ``None``: the schedule's distribution of training.
    """
    timesteps, active, stages, noise = [], [], [], []
    for latents, seed in zip(data, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that numbers do not depend on the device
        rows, columns = system.target_grid(latents.shape[1:])
        if grid is None:
            t = float(schedule.sample_timesteps(1, image_tokens=rows * columns, generator=generator).double())
        else:
            t = float(grid[int(torch.randint(len(grid) - 1, (1,), generator=generator))])
        (hidden,) = schedule.sample_dropout(1, generator=generator)
        timesteps.append(t)
        active.append(schedule.active(t).restricted(hidden))
        stages.append(schedule.stage(t))
        noise.append(torch.randn(latents.shape, generator=generator).to(latents))
    return TrainingBatch(
        samples=samples,
        data=data,
        noise=noise,
        timesteps=torch.tensor(timesteps, dtype=torch.float64),
        active=active,
        stages=stages,
    )
