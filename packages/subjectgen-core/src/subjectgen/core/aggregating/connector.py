"""The trained map from the encoder's width to the backbone's context width."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core.aggregating.normalization import RMSNorm


class Connector(nn.Module):
    """RMSNorm, Linear, GELU, Linear: c -> d, from aggregated tokens to context tokens.

    FLUX's own ``context_embedder`` stays frozen and takes 4096 channels, so some trained map must stand before it.

    Args:
        width: channels c that come in.
        context_width: channels d that go out, and those between the two linear maps.

    Source: Krea 2's text projection (diffusers ``Krea2TextProjection``).
    """

    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.expand = nn.Linear(width, context_width)
        self.project = nn.Linear(context_width, context_width)

    def forward(self, tokens: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch d"]:
        """Map aggregated tokens to context tokens."""
        return self.project(F.gelu(self.expand(self.norm(tokens)), approximate="tanh"))
