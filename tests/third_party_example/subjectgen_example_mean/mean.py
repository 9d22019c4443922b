"""Average all hidden states of a token: every layer counts the same.

Shape letters: t valid tokens of all rows, m hidden states, c encoder width, d context width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core import ChangesWeights, Config as BaseConfig, Features
from subjectgen.core.aggregating import TokenAggregator, TokenPlaces


class Mean(TokenAggregator):
    """Mean over the layers, then a linear connector; no pooled vector."""

    class Config(BaseConfig):
        """Options of :class:`Mean`."""

        bias: ChangesWeights[bool] = True
        """Whether the connector has a bias."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__(range(depth), width=width, depth=depth)
        self.connector = nn.Linear(width, context_width, bias=config.bias)

    def condition(self, features: Features, places: TokenPlaces) -> tuple[Float[Tensor, "t d"], None]:
        """Average and project the tokens at ``places``."""
        states: Float[Tensor, "m t c"] = torch.stack([self.gather(features, layer, places) for layer in self.layers])
        return self.connector(states.mean(dim=0)), None
