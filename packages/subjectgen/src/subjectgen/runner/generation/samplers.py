"""Samplers of the rectified flow dx/dt = v(x, t): functions of a velocity and a grid.

Another sampler is another function of the same arguments; it may ask for the velocity at any t in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Velocity: TypeAlias = Callable[[Float[Tensor, "b c h w"], float], Float[Tensor, "b c h w"]]
"""Noise minus data as the model sees it, of latents at a timestep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerStep:
    """What a sampler tells after each step."""

    index: int
    timestep: float
    """Where the velocity was taken."""
    latents: Float[Tensor, "b c h w"]
    """After the step."""
    estimate: Float[Tensor, "b c h w"]
    """The image as this velocity sees it: x_t - t v, since x_t = (1 - t) image + t noise."""


@runtime_checkable
class Sampler(Protocol):
    """From noise to latents."""

    def __call__(
        self,
        velocity: Velocity,
        latents: Float[Tensor, "b c h w"],
        times: Sequence[float],
        *,
        on_step: Callable[[SamplerStep], None] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Integrate along ``times``, which fall from 1 to 0."""
        ...


@torch.no_grad()
def euler(
    velocity: Velocity,
    latents: Float[Tensor, "b c h w"],
    times: Sequence[float],
    *,
    on_step: Callable[[SamplerStep], None] | None = None,
) -> Float[Tensor, "b c h w"]:
    """x_{t'} = x_t + (t' - t) v(x_t, t)."""
    for index, (t, following) in enumerate(pairwise(times)):
        direction = velocity(latents, t)
        before, latents = latents, latents + (following - t) * direction
        if on_step is not None:
            on_step(SamplerStep(index=index, timestep=t, latents=latents, estimate=before - t * direction))
    return latents


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Float[Tensor, "b c h w"]:
    """Starting noise; a row depends on its seed alone, not on the batch it is in."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
