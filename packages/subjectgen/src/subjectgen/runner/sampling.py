"""Euler sampling of the rectified flow, stage by stage.

Conditioning is computed once per sample and branch; a step runs the backbone alone, on the tokens of its stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import ActiveBranches, Guidance, Sample, Streams, Visibility
from subjectgen.runner.assemble import System
from subjectgen.runner.conditioning import Conditioner, silence

Memory: TypeAlias = dict[tuple[tuple[tuple[str, Visibility], ...], str], Streams]
"""Streams by what each branch sees: they stay the same between the steps of a stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a progress callback is told after each step."""

    index: int
    steps: int
    timestep: float
    stage: str
    latents: Tensor


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Float[Tensor, "b c h w"]:
    """Starting noise; a row depends on its seed alone, not on the batch it is in."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    system: System,
    samples: Sequence[Sample],
    latents: Float[Tensor, "b c h w"],
    *,
    index: Tensor | None = None,
    steps: int | None = None,
    on_step: Callable[[Step], None] | None = None,
    instead: Mapping[str, Sequence[Sample]] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Denoise ``latents`` (row i for sample ``index[i]``) from t = 1 to 0 with the experiment's schedule.

    Args:
        system: The built experiment.
        samples: Prompts and references; all must have the same branches present.
        latents: Starting noise.
        index: Which sample each row belongs to; ``None`` for one row per sample.
        steps: Overrides the schedule's number of steps.
        on_step: Called after each step.
        instead: Other samples for single branches, to measure what a branch changes.
    """
    patch = system.backbone.patch_size
    grid = (latents.shape[-2] // patch, latents.shape[-1] // patch)
    conditioner = Conditioner(system, samples, target_grid=grid, instead=instead)
    schedule = system.schedule
    times = [float(t) for t in schedule.timesteps(steps, image_tokens=grid[0] * grid[1])]
    latents = latents.to(system.device)
    memory: Memory = {}
    for number, (t, following) in enumerate(pairwise(times)):
        velocity = guided_velocity(system, conditioner, latents, t, index=index, memory=memory)
        latents = latents + (following - t) * velocity
        if on_step is not None:
            on_step(Step(index=number, steps=len(times) - 1, timestep=t, stage=schedule.stage(t), latents=latents))
    return latents


def guided_velocity(
    system: System,
    conditioner: Conditioner,
    latents: Float[Tensor, "b c h w"],
    t: float,
    *,
    index: Tensor | None = None,
    memory: Memory | None = None,
) -> Float[Tensor, "b c h w"]:
    """Velocity at one timestep, with classifier-free guidance where the stage asks for it.

    ``memory`` keeps the streams of a stage between its steps.
    """
    active, guidance = system.schedule.active(t), system.schedule.guidance(t)
    positive = _velocity(system, conditioner, latents, t, active, guidance, index, memory)
    if guidance.true_cfg == 1.0:
        return positive
    hidden = active.restricted(silence(guidance.negative, tuple(system.branches)))
    if hidden.visibility == active.visibility:
        return positive
    negative = _velocity(system, conditioner, latents, t, hidden, guidance, index, memory)
    return negative + guidance.true_cfg * (positive - negative)


def _velocity(
    system: System,
    conditioner: Conditioner,
    latents: Tensor,
    t: float,
    active: ActiveBranches,
    guidance: Guidance,
    index: Tensor | None,
    memory: Memory | None,
) -> Tensor:
    key = (tuple(active.visibility.items()), active.inactive)
    streams = memory.get(key) if memory is not None else None
    if streams is None:
        streams = conditioner.streams(active, index)
        if memory is not None:
            memory[key] = streams
    timestep = torch.full((len(latents),), t, device=latents.device, dtype=latents.dtype)
    return system.backbone(latents, timestep, streams, guidance=guidance.embedded)
