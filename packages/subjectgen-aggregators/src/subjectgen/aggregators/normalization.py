"""Root-mean-square norm, also under autocast."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-6


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * gain, in the gain's dtype: under autocast a half-precision x would miss the fused kernel."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def forward(self, x: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch c"]:
        """Normalize the last axis."""
        return super().forward(x.to(self.weight.dtype))
