"""SwiGLU feed-forward with its pre-norm and residual."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core.aggregating import RMSNorm

_MULTIPLE = 128


class FeedForward(nn.Module):
    """x + W_down(silu(W_gate n) * W_up n), n = RMSNorm(x). Hidden width 8/3 of the width, rounded up to 128.

    Source: Shazeer 2020 (SwiGLU); rounding as in Krea 2's layerwise blocks.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-(8 * width // 3) // _MULTIPLE) * _MULTIPLE
        self.norm = RMSNorm(width)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch c"]:
        """Apply the feed-forward and add its input."""
        normalized = self.norm(x)
        return x + self.down(F.silu(self.gate(normalized)) * self.up(normalized))
