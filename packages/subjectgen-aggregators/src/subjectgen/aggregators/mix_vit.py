"""Vision features for image tokens, the last hidden state for text tokens."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from subjectgen.aggregators.base import AggregatorConfig, TokenAggregator
from subjectgen.aggregators.tokens import TokenPlaces, hidden_state, vision_features
from subjectgen.core import Features, Modality


class MixVit(TokenAggregator):
    """Vision features at image tokens, F_M at text tokens (paper section 4.3, Table 6).

    Vision features are those after the projector, in the language model's width. ``layers`` holds index 0 beside M:
    F_0 is read only where the encoder gives no ``image_features``, and has them at image positions.
    """

    class Config(AggregatorConfig):
        """Options of ``mix_vit``."""

    def __init__(self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int) -> None:
        super().__init__(config, width=width, depth=depth, context_width=context_width, pooled_width=pooled_width)
        self.layers = tuple(sorted({0, depth - 1}))

    def aggregate(self, features: Features, modality: Modality, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Take vision features or F_M."""
        image = modality == Modality.IMAGE
        states = vision_features(features) if image else hidden_state(features, self.layers[-1])
        return places.gather(states).to(self.dtype)
