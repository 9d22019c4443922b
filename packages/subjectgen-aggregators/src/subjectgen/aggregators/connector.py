"""The trained map from the encoder's width to the backbone's context width."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.aggregators.normalization import RMSNorm


class Connector(nn.Module):
    """RMSNorm, Linear, GELU, Linear: C -> D_ctx, which every aggregator ends in.

    FLUX's own ``context_embedder`` stays frozen and takes 4096 channels, so some trained map must stand before it.

    Args:
        width: channels that come in.
        context_width: channels that go out.
        hidden: channels between the two linear maps; ``None`` means ``context_width``.

    Source: Krea 2's text projection (diffusers ``Krea2TextProjection``).
    """

    def __init__(self, width: int, context_width: int, *, hidden: int | None = None) -> None:
        super().__init__()
        hidden = context_width if hidden is None else hidden
        self.norm = RMSNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, context_width)

    def forward(self, tokens: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch d"]:
        """Map aggregated tokens to context tokens."""
        return self.project(F.gelu(self.expand(self.norm(tokens)), approximate="tanh"))
