"""Vision features for image tokens, the last hidden state for text tokens."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from subjectgen.aggregators.vision import VisionAggregator
from subjectgen.core import Features
from subjectgen.core.aggregating import ConnectedConfig, TokenPlaces, vision_features


class MixVit(VisionAggregator):
    """Vision features at image tokens, F_M at text tokens (paper section 4.3, Table 6).

    Vision features are those after the projector, in the language model's width.
    """

    class Config(ConnectedConfig):
        """Options of ``mix_vit``."""

    def image_tokens(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Take the vision features."""
        return places.gather(vision_features(features)).to(self.dtype)
