"""Timestep grids: from pure noise (t = 1) to data (t = 0).

Grids are float64 on purpose: in float32 the point 0.95 is smaller than the Python number 0.95, so whoever compares a
grid point that lies exactly on a boundary with the number in the YAML would find it on the wrong side.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError

GridName: TypeAlias = Literal["cosine", "half_cosine", "linear", "flux_shift"]

FLUX_TOKENS = (256, 4096)
FLUX_MU = (0.5, 1.15)


def linear(steps: int) -> Float[Tensor, " n"]:
    """Equal steps: t_k = 1 - k/N, for k = 0..N."""
    # (N - k)/N is rounded once, so that t equals the number a reader writes: 19/20 is 0.95, 1 - 1/20 need not be.
    return (steps - _index(steps)) / steps


def cosine(steps: int) -> Float[Tensor, " n"]:
    """A quarter of a cosine, dense near noise: t_k = cos(πk / 2N). The reading of Squeeze-MLLM 4.1 used by default."""
    return _pinned(torch.cos(math.pi * _index(steps) / (2 * steps)))


def half_cosine(steps: int) -> Float[Tensor, " n"]:
    """Half a cosine, dense at both ends: t_k = (1 + cos(πk/N)) / 2."""
    return _pinned((1 + torch.cos(math.pi * _index(steps) / steps)) / 2)


def flux_shift(steps: int, mu: float) -> Float[Tensor, " n"]:
    """FLUX's grid: the linear grid moved towards noise, t' = e^mu / (e^mu + 1/t - 1)."""
    return _pinned(shift_timestep(linear(steps), math.exp(mu)))


def flux_mu(image_tokens: int) -> float:
    """FLUX's shift for a number of image tokens: linear through (256, 0.5) and (4096, 1.15)."""
    slope = (FLUX_MU[1] - FLUX_MU[0]) / (FLUX_TOKENS[1] - FLUX_TOKENS[0])
    return FLUX_MU[0] + slope * (image_tokens - FLUX_TOKENS[0])


def shift_timestep(timestep: Float[Tensor, "*n"], alpha: float) -> Float[Tensor, "*n"]:
    """The timestep at another resolution that is as noisy to the eye: alpha t / (1 + (alpha - 1) t).

    ``alpha`` is the square root of the ratio of pixels, new over old (SD3, arXiv 2403.03206, equation 23). The same
    formula carries the stage boundaries tau1 and tau2 to another resolution.
    """
    return alpha * timestep / (1 + (alpha - 1) * timestep)


def make_grid(name: GridName, steps: int, mu: float | None = None) -> Float[Tensor, " n"]:
    """The grid of this name, steps + 1 points. ``mu`` is needed by ``flux_shift`` alone.

    Raises:
        InputError: fewer than one step, or ``flux_shift`` without ``mu``.
    """
    if steps < 1:
        raise InputError(f"steps: {steps} is too few; expected at least 1")
    if name == "flux_shift":
        if mu is None:
            raise InputError("grid 'flux_shift' needs the number of image tokens, or an explicit schedule.mu")
        return flux_shift(steps, mu)
    return {"cosine": cosine, "half_cosine": half_cosine, "linear": linear}[name](steps)


def _index(steps: int) -> Float[Tensor, " n"]:
    return torch.arange(steps + 1, dtype=torch.float64)


def _pinned(grid: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Both ends exact: cos(π/2) is 6e-17 in floating point, and a last step to that is not a last step to 0."""
    grid[0], grid[-1] = 1.0, 0.0
    return grid
