"""The usual aggregator: tokens mixed over layers, a connector to the backbone's width, a pooled vector.

Shape letters as in :mod:`subjectgen.core.aggregating.base`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from subjectgen.core.aggregating.base import TokenAggregator
from subjectgen.core.aggregating.connector import Connector
from subjectgen.core.aggregating.places import TokenPlaces
from subjectgen.core.aggregating.pooled import Pooled, PooledOption
from subjectgen.core.component import Config
from subjectgen.core.roles import ChangesWeights
from subjectgen.core.streams import Features


class ConnectedConfig(Config):
    """Options of every aggregator that ends in a connector."""

    pooled: ChangesWeights[PooledOption] = "mean"
    """The backbone's pooled vector: ``mean`` of the context tokens through a linear map, ``mean_aggregated``: of the
    tokens before the connector (as Step1X-Edit), a learned ``constant``, the encoder's own (``clip``), or ``none``. A
    backbone that takes none gets none."""


class ConnectedAggregator(TokenAggregator):
    """Aggregated tokens through a :class:`Connector`; :class:`Pooled` as the config says.

    Args:
        config: the aggregator's options.
        layers: indices of the hidden states that it reads.
        width: channels c of the hidden states.
        depth: number of hidden states, M + 1.
        context_width: channels d of the context tokens.
        pooled_width: width p of the backbone's pooled vector; ``None`` if it takes none.
        inner_width: channels of what :meth:`aggregate` returns; ``None`` means ``width``.
    """

    def __init__(
        self,
        config: ConnectedConfig,
        layers: Iterable[int],
        *,
        width: int,
        depth: int,
        context_width: int,
        pooled_width: int | None = None,
        inner_width: int | None = None,
    ) -> None:
        super().__init__(layers, width=width, depth=depth)
        inner_width = inner_width or width
        self.connector = Connector(inner_width, context_width)
        self.pooled = Pooled(config.pooled, width=inner_width, context_width=context_width, pooled_width=pooled_width)

    @abstractmethod
    def aggregate(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t inner"]:
        """Aggregate the tokens at ``places``: all valid ones, text first, in that order."""

    def condition(
        self, features: Features, places: TokenPlaces
    ) -> tuple[Float[Tensor, "t d"], Float[Tensor, "b p"] | None]:
        """Aggregate, connect and pool."""
        aggregated = self.aggregate(features, places)
        tokens = self.connector(aggregated)
        return tokens, self.pooled(aggregated, tokens, places, features)
