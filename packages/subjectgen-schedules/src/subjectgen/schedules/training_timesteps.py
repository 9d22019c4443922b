"""Where training looks: distributions of the timestep over (0, 1]. All in float64, like the grids."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.schedules.grids import flux_shift

DistributionName: TypeAlias = Literal["grid", "uniform", "logit_normal"]

GRID_ENTRIES = 1000


def uniform(count: int, generator: torch.Generator | None = None) -> Float[Tensor, " n"]:
    """Uniform over [0, 1), on the CPU whatever the generator's device."""
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.rand(count, generator=generator, device=device, dtype=torch.float64).cpu()


def shifted_grid(count: int, mu: float, generator: torch.Generator | None = None) -> Float[Tensor, " n"]:
    """A uniform index into FLUX's shifted grid of 1000 entries, as UNO trains.

    UNO's grid ends at t = 0, where there is nothing to learn; ours ends one entry before it.
    """
    index = (uniform(count, generator) * GRID_ENTRIES).long()
    return flux_shift(GRID_ENTRIES, mu)[index]


def logit_normal(
    count: int, mean: float = 0.0, std: float = 1.0, generator: torch.Generator | None = None
) -> Float[Tensor, " n"]:
    """The sigmoid of a normal variable (SD3, arXiv 2403.03206, section 3.1)."""
    device = generator.device if generator is not None else torch.device("cpu")
    normal = torch.randn(count, generator=generator, device=device, dtype=torch.float64).cpu()
    # A sigmoid underflows to 0 only beyond 700, which an absurd mean or std could reach.
    return torch.sigmoid(mean + std * normal).clamp(min=torch.finfo(torch.float32).tiny)
