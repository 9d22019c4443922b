"""To build an aggregator from: valid tokens of the features a plugin is given, mixed as it likes, in place.

A new aggregator inherits :class:`ConnectedAggregator` and says which hidden states it reads and how it mixes them; one
that makes context tokens in another way than through the connector inherits :class:`TokenAggregator`.

.. code-block:: python

    class Average(ConnectedAggregator):
        class Config(ConnectedConfig):
            "No option of its own."

        def __init__(self, config, *, width, depth, context_width, pooled_width=None):
            super().__init__(config, range(depth), width=width, depth=depth,
                             context_width=context_width, pooled_width=pooled_width)

        def aggregate(self, features, places):
            return sum(self.gather(features, layer, places) for layer in self.layers) / self.depth
"""

from __future__ import annotations

from subjectgen.core.aggregating.base import TokenAggregator
from subjectgen.core.aggregating.connected import ConnectedAggregator, ConnectedConfig
from subjectgen.core.aggregating.connector import Connector
from subjectgen.core.aggregating.normalization import RMSNorm
from subjectgen.core.aggregating.places import TokenPlaces, hidden_state, vision_features
from subjectgen.core.aggregating.pooled import Pooled, PooledOption

__all__ = [
    "ConnectedAggregator",
    "ConnectedConfig",
    "Connector",
    "Pooled",
    "PooledOption",
    "RMSNorm",
    "TokenAggregator",
    "TokenPlaces",
    "hidden_state",
    "vision_features",
]
