"""Dual layer aggregator: one layerwise attention pooling for text tokens, one for image tokens."""

from __future__ import annotations

from subjectgen.aggregators.layer_pooling import LayerPooling
from subjectgen.aggregators.layerwise import LayerwiseAggregator, LayerwiseConfig
from subjectgen.core import Modality


class DualLayerAggregator(LayerwiseAggregator):
    """The DLA of paper section 3.3: two poolings, nothing fused between them; the connector is shared.

    A ``refiner`` is the only part in which text and image tokens see each other.
    """

    class Config(LayerwiseConfig):
        """Options of ``dla``."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__(config, width=width, depth=depth, context_width=context_width, pooled_width=pooled_width)
        self.text_pooling = self.build_pooling(self.modality_layers[Modality.TEXT])
        self.image_pooling = self.build_pooling(self.modality_layers[Modality.IMAGE])

    def pooling(self, modality: Modality) -> LayerPooling:
        """The modality's own pooling."""
        return self.image_pooling if modality == Modality.IMAGE else self.text_pooling
