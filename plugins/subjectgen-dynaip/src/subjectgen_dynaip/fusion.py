"""The other ways to use CLIP's layers that DynaIP is compared with: add, concatenate, one layer alone (Table 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core import JSON, ChangesWeights, Config as BaseConfig, Features
from subjectgen.core.aggregating import TokenPlaces
from subjectgen_dynaip.experts import Expert, LevelAggregator
from subjectgen_dynaip.levels import Level, Levels, resolve_level, resolve_levels


class AddFusion(LevelAggregator):
    """Three experts, added element by element: no router."""

    class Config(BaseConfig):
        """Options of ``add``."""

        levels: ChangesWeights[Levels | None] = None
        """Hidden states low, mid, high; null: 10/24, 17/24 and 24/24 of the encoder's blocks."""
        mean: ChangesWeights[bool] = False
        """Divide the sum by three, the scale of the mixture's equal weights."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__(resolve_levels(config.levels, depth), width=width, depth=depth)
        self.config = config
        self.experts = nn.ModuleList(Expert(width, context_width) for _ in self.layers)

    @property
    def defining(self) -> Mapping[str, JSON]:
        """Levels as indices of hidden states."""
        return {"levels": [*self.layers]}

    def fuse(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t d"]:
        """Add the experts' tokens."""
        parts = [
            expert(self.gather(features, layer, places))
            for layer, expert in zip(self.layers, self.experts, strict=True)
        ]
        added = parts[0] + parts[1] + parts[2]
        return added / len(parts) if self.config.mean else added


class ConcatFusion(LevelAggregator):
    """Three levels side by side in the channels, through one expert of three times the width."""

    class Config(BaseConfig):
        """Options of ``concat``."""

        levels: ChangesWeights[Levels | None] = None
        """Hidden states low, mid, high; null: 10/24, 17/24 and 24/24 of the encoder's blocks."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__(resolve_levels(config.levels, depth), width=width, depth=depth)
        self.expert = Expert(len(self.layers) * width, context_width)

    @property
    def defining(self) -> Mapping[str, JSON]:
        """Levels as indices of hidden states."""
        return {"levels": [*self.layers]}

    def fuse(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t d"]:
        """Concatenate channels low, mid, high, and project them."""
        return self.expert(torch.cat([self.gather(features, layer, places) for layer in self.layers], dim=1))


class SingleLevel(LevelAggregator):
    """One expert on one hidden state."""

    class Config(BaseConfig):
        """Options of ``single_level``."""

        level: ChangesWeights[Level] = "high"
        """``low``, ``mid``, ``high`` (10/24, 17/24, 24/24 of the encoder's blocks) or the index of a hidden state."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__((resolve_level(config.level, depth),), width=width, depth=depth)
        self.expert = Expert(width, context_width)

    @property
    def defining(self) -> Mapping[str, JSON]:
        """The level as the index of a hidden state."""
        return {"level": self.layers[0]}

    def fuse(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t d"]:
        """Project the level's tokens."""
        return self.expert(self.gather(features, self.layers[0], places))
