"""Last hidden state and vision features, blended at image tokens."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from subjectgen.aggregators.vision import VisionAggregator
from subjectgen.core import ChangesResults, ChangesWeights, Features
from subjectgen.core.aggregating import ConnectedConfig, TokenPlaces, vision_features


class BlendVit(VisionAggregator):
    """(1 - r) F_M + r ViT at image tokens, F_M at text tokens (DreamEngine; paper section 4.3, Table 6).

    In transformers F_M is after the final norm and the vision features are not: the two differ in scale, as they do
    in DreamEngine.
    """

    class Config(ConnectedConfig):
        """Options of ``blend_vit``."""

        blend: ChangesWeights[Literal["fixed", "random", "learned"]] = "fixed"
        """``fixed``: r = ratio. ``random``: r ~ U(0, 1) per sample in training, r = ratio at inference.
        ``learned``: one trained scalar that starts at ratio and is not bounded."""
        ratio: ChangesResults[float] = Field(default=0.5, ge=0, le=1)
        """r: 0 is the last hidden state alone, 1 the vision features alone."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__(config, width=width, depth=depth, context_width=context_width, pooled_width=pooled_width)
        self.random = config.blend == "random"
        self.generator = torch.Generator(device="cpu").manual_seed(0)
        """Draws r in training, never at inference."""
        ratio = torch.tensor(config.ratio)
        if config.blend == "learned":
            self.ratio = nn.Parameter(ratio)
        else:
            # Not saved: it is the config's, and inference may choose another one than training.
            self.register_buffer("ratio", ratio, persistent=False)

    def image_tokens(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Blend F_M and the vision features."""
        ratio = self._ratio(places)
        last = self.gather(features, self.layers[-1], places)
        return (1 - ratio) * last + ratio * places.gather(vision_features(features)).to(self.dtype)

    def _ratio(self, places: TokenPlaces) -> Float[Tensor, "..."]:
        if not (self.random and self.training):
            return self.ratio.to(self.dtype)
        per_sample = torch.rand(places.batch, 1, generator=self.generator, device="cpu")
        return per_sample.to(places.index.device, self.dtype)[places.row]
