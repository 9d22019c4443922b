"""One layerwise attention pooling for all tokens."""

from __future__ import annotations

from subjectgen.aggregators.layer_pooling import LayerPooling
from subjectgen.aggregators.layerwise import LayerwiseAggregator, LayerwiseConfig
from subjectgen.core import Modality


class LayerwiseAttentionPooling(LayerwiseAggregator):
    """The single LAP of paper section 3.2: text and image tokens share one set of weights.

    Where the two modalities read different layers, each attends over its own and the shared layers share weights.
    """

    class Config(LayerwiseConfig):
        """Options of ``lap``."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__(config, width=width, depth=depth, context_width=context_width, pooled_width=pooled_width)
        layers = set().union(*self.modality_layers.values())
        self.layer_pooling = self.build_pooling(tuple(sorted(layers)))

    def pooling(self, modality: Modality) -> LayerPooling:
        """The one pooling."""
        return self.layer_pooling
