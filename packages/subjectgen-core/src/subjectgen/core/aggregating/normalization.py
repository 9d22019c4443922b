"""Root-mean-square norm, also under autocast."""

from __future__ import annotations

from typing import Final

from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * gain, in the gain's dtype: under autocast a half-precision x would miss the fused kernel."""

    EPS: Final = 1e-6
    """Added to the mean square."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=self.EPS)

    def forward(self, x: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch c"]:
        """Normalize the last axis."""
        return super().forward(x.to(self.weight.dtype))
