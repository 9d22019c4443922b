"""The last hidden state of every token."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from subjectgen.core import Features
from subjectgen.core.aggregating import ConnectedAggregator, ConnectedConfig, TokenPlaces


class LastLayer(ConnectedAggregator):
    """F_M for all tokens, as Qwen-Image conditions its backbone (paper section 4.3, Table 6)."""

    class Config(ConnectedConfig):
        """Options of ``last_layer``."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__(
            config, (depth - 1,), width=width, depth=depth, context_width=context_width, pooled_width=pooled_width
        )

    def aggregate(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Take F_M, whatever the token is."""
        return self.gather(features, self.layers[-1], places)
