"""Last hidden state and vision features, blended at image tokens."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from subjectgen.aggregators.base import AggregatorConfig, TokenAggregator
from subjectgen.aggregators.tokens import TokenPlaces, hidden_state, vision_features
from subjectgen.core import Features, Modality


class BlendVit(TokenAggregator):
    """(1 - r) F_M + r ViT at image tokens, F_M at text tokens (DreamEngine; paper section 4.3, Table 6).

    In transformers F_M is after the final norm and the vision features are not: the two differ in scale, as they do
    in DreamEngine. ``layers`` holds index 0 beside M: F_0 is read only where the encoder gives no ``image_features``.
    """

    class Config(AggregatorConfig):
        """Options of ``blend_vit``."""

        blend: Literal["fixed", "random", "learned"] = "fixed"
        """``fixed``: r = ratio. ``random``: r ~ U(0, 1) per sample in training, r = ratio at inference.
        ``learned``: one trained scalar that starts at ratio and is not bounded."""
        ratio: float = Field(default=0.5, ge=0, le=1)
        """r: 0 is the last hidden state alone, 1 the vision features alone."""

    def __init__(self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int) -> None:
        super().__init__(config, width=width, depth=depth, context_width=context_width, pooled_width=pooled_width)
        self.layers = tuple(sorted({0, depth - 1}))
        self.random = config.blend == "random"
        ratio = torch.tensor(config.ratio)
        if config.blend == "learned":
            self.ratio = nn.Parameter(ratio)
        else:
            # Not saved: it is the config's, and inference may choose another one than training.
            self.register_buffer("ratio", ratio, persistent=False)

    def aggregate(self, features: Features, modality: Modality, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Blend image tokens; leave text tokens alone."""
        last = places.gather(hidden_state(features, self.layers[-1])).to(self.dtype)
        if modality != Modality.IMAGE:
            return last
        ratio = self._ratio(places)
        return (1 - ratio) * last + ratio * places.gather(vision_features(features)).to(self.dtype)

    def _ratio(self, places: TokenPlaces) -> Float[Tensor, "..."]:
        if not (self.random and self.training):
            return self.ratio.to(self.dtype)
        per_sample = torch.rand(places.batch, 1, dtype=self.dtype, device=places.index.device)
        return per_sample[places.row]
