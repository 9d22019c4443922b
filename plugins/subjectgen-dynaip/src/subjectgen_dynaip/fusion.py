"""The other ways to use CLIP's layers that DynaIP is compared with: add, concatenate, one layer alone (Table 2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subjectgen.core import Config as BaseConfig, Features
from subjectgen_dynaip.experts import Expert, LevelAggregator
from subjectgen_dynaip.levels import Level, Levels, resolve_level, resolve_levels


class AddFusion(LevelAggregator):
    """Three experts, added element by element: no router."""

    class Config(BaseConfig):
        """Options of ``add``."""

        levels: Levels | None = None
        """Hidden states low, mid, high; null: 10/24, 17/24 and 24/24 of the encoder's blocks."""
        mean: bool = False
        """Divide the sum by three, the scale of the mixture's equal weights."""

    component = "add"

    def __init__(self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int) -> None:
        levels = resolve_levels(config.levels, depth, component=self.component)
        super().__init__(levels, width=width, depth=depth, context_width=context_width)
        self.config = config
        self.experts = nn.ModuleList(Expert(width, context_width) for _ in levels)

    def fuse(self, features: Features, places: Int[Tensor, " t"]) -> Float[Tensor, "t d"]:
        """Add the experts' tokens."""
        parts = [
            expert(self.tokens(features, layer, places))
            for layer, expert in zip(self.layers, self.experts, strict=True)
        ]
        added = parts[0] + parts[1] + parts[2]
        return added / len(parts) if self.config.mean else added


class ConcatFusion(LevelAggregator):
    """Three levels side by side in the channels, through one expert of three times the width."""

    class Config(BaseConfig):
        """Options of ``concat``."""

        levels: Levels | None = None
        """Hidden states low, mid, high; null: 10/24, 17/24 and 24/24 of the encoder's blocks."""

    component = "concat"

    def __init__(self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int) -> None:
        levels = resolve_levels(config.levels, depth, component=self.component)
        super().__init__(levels, width=width, depth=depth, context_width=context_width)
        self.expert = Expert(len(levels) * width, context_width)

    def fuse(self, features: Features, places: Int[Tensor, " t"]) -> Float[Tensor, "t d"]:
        """Concatenate channels low, mid, high, and project them."""
        return self.expert(torch.cat([self.tokens(features, layer, places) for layer in self.layers], dim=1))


class SingleLevel(LevelAggregator):
    """One expert on one hidden state."""

    class Config(BaseConfig):
        """Options of ``single_level``."""

        level: Level = "high"
        """``low``, ``mid``, ``high`` (10/24, 17/24, 24/24 of the encoder's blocks) or the index of a hidden state."""

    component = "single_level"

    def __init__(self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int) -> None:
        level = resolve_level(config.level, depth, component=self.component)
        super().__init__((level,), width=width, depth=depth, context_width=context_width)
        self.expert = Expert(width, context_width)

    def fuse(self, features: Features, places: Int[Tensor, " t"]) -> Float[Tensor, "t d"]:
        """Project the level's tokens."""
        return self.expert(self.tokens(features, self.layers[0], places))
