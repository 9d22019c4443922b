"""What the aggregators share that give vision features a place: text tokens are the last hidden state."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import Features, Modality
from subjectgen.core.aggregating import ConnectedAggregator, ConnectedConfig, TokenPlaces


class VisionAggregator(ConnectedAggregator):
    """F_M at text tokens, something of the vision features at image tokens.

    ``layers`` holds index 0 beside M: F_0 is read only where the encoder gives no ``image_features``, and has them at
    image positions.
    """

    def __init__(
        self, config: ConnectedConfig, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__(
            config, (0, depth - 1), width=width, depth=depth, context_width=context_width, pooled_width=pooled_width
        )

    @abstractmethod
    def image_tokens(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Aggregate the image tokens, which stand at ``places``."""

    def aggregate(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Text tokens of F_M, then the image tokens."""
        text = self.gather(features, self.layers[-1], places.only(Modality.TEXT))
        return torch.cat([text, self.image_tokens(features, places.only(Modality.IMAGE))])
