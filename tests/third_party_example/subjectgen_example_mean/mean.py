"""Average all hidden states of a token: every layer counts the same.

Shape letters: b batch, l tokens, m hidden states, c encoder width, d context width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core import Conditioning, Config as BaseConfig, Features


class Mean(nn.Module):
    """Mean over the layers, then a linear connector."""

    class Config(BaseConfig):
        """Options of :class:`Mean`."""

        bias: bool = True
        """Whether the connector has a bias."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__()
        self.layers = tuple(range(depth))
        self.connector = nn.Linear(width, context_width, bias=config.bias)

    def forward(self, features: Features) -> Conditioning:
        """Average and project every token; padding becomes zero."""
        states: Float[Tensor, "m b l c"] = torch.stack([s for s in features.hidden_states if s is not None])
        mean = states.mean(dim=0)
        tokens: Float[Tensor, "b l d"] = self.connector(mean.to(self.connector.weight.dtype)).to(mean.dtype)
        return Conditioning(tokens=tokens * features.mask[..., None], mask=features.mask)
