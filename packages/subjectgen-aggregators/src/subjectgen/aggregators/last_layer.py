"""The last hidden state of every token."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from subjectgen.aggregators.base import AggregatorConfig, TokenAggregator
from subjectgen.aggregators.tokens import TokenPlaces, hidden_state
from subjectgen.core import Features, Modality


class LastLayer(TokenAggregator):
    """F_M for all tokens, as Qwen-Image conditions its backbone (paper section 4.3, Table 6)."""

    class Config(AggregatorConfig):
        """Options of ``last_layer``."""

    def __init__(self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int) -> None:
        super().__init__(config, width=width, depth=depth, context_width=context_width, pooled_width=pooled_width)
        self.layers = (depth - 1,)

    def aggregate(self, features: Features, modality: Modality, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Take F_M, whatever the token is."""
        return places.gather(hidden_state(features, self.layers[-1])).to(self.dtype)
