"""Hierarchical mixture of experts: low, middle and high CLIP features, weighed by each picture's class tokens.

Shape letters: b rows, l tokens of a row, t valid tokens of all rows, c encoder width, d context width,
g groups of a row: the tokens of no reference (text) first, then k references.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from subjectgen.core import JSON, ChangesResults, ChangesWeights, Config as BaseConfig, Features, Modality
from subjectgen.core.aggregating import TokenPlaces, hidden_state
from subjectgen_dynaip.experts import Expert, LevelAggregator
from subjectgen_dynaip.levels import LEVELS, Levels, resolve_levels

_SUM_TOLERANCE = 1e-3


def check_weights(weights: Sequence[float]) -> tuple[float, float, float]:
    """Three finite weights low, mid, high of zero or more that sum to one within 0.001; ValueError if they are not."""
    expected = "expected three numbers for low, mid, high, none below zero, that sum to one"
    if len(weights) != len(LEVELS) or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"weights: got {_listed(weights)}; {expected}, such as 0.2, 0.3, 0.5")
    total = sum(weights)
    if abs(total - 1) > _SUM_TOLERANCE:
        hint = f"; did you mean {_listed([round(w / total, 4) for w in weights])}?" if total else ""
        raise ValueError(f"weights: got {_listed(weights)}, which sum to {total:g}; {expected}{hint}")
    low, mid, high = map(float, weights)
    return low, mid, high


Weights: TypeAlias = Annotated[tuple[float, float, float], AfterValidator(check_weights)]
"""How much of the low, middle and high expert."""


class Router(nn.Module):
    """Two-layer perceptron with tanh on the class tokens of three levels, softmax over the levels (DynaIP Eq. 7)."""

    def __init__(self, width: int, hidden: int, kind: Literal["joint", "per_level"]) -> None:
        super().__init__()
        joint = kind == "joint"
        sizes = [(len(LEVELS) * width, len(LEVELS))] if joint else [(width, 1)] * len(LEVELS)
        self.perceptrons = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)) for inputs, outputs in sizes
        )

    def forward(self, class_tokens: Float[Tensor, "b g 3 c"]) -> Float[Tensor, "b g 3"]:
        """Weights low, mid, high that sum to one, in float32 or better."""
        inputs = class_tokens.flatten(2).chunk(len(self.perceptrons), dim=2)
        scores = torch.cat([part(each) for part, each in zip(self.perceptrons, inputs, strict=True)], dim=2)
        return scores.softmax(dim=2, dtype=_precise(scores.dtype))


class HierarchicalExperts(LevelAggregator):
    """Sum over three levels of w_l Expert_l(F_l), w from each reference's own class tokens (DynaIP 4.2, Eq. 6-8).

    Without class tokens, a reference is routed by the mean of its tokens; text is routed like one more reference.
    """

    class Config(BaseConfig):
        """Options of ``hmoe``."""

        levels: ChangesWeights[Levels | None] = None
        """Hidden states low, mid, high, negative ones from the last; null: 10/24, 17/24 and 24/24 of the encoder's
        blocks, which is 10, 17, 24 for ViT-L."""
        router: ChangesWeights[Literal["joint", "per_level"]] = "joint"
        """``joint``: one perceptron on the three class tokens side by side. ``per_level``: one for each level."""
        router_hidden: ChangesWeights[int | None] = Field(default=None, ge=1)
        """Width between the router's two linear maps; null: the encoder's width."""
        expert_dropout: ChangesResults[float] = Field(default=0.05, ge=0, le=1)
        """In training, how often an expert is left out, drawn for each expert and each reference of each row. The other
        weights stay as they are. Where all would be left out, one of them, drawn evenly, is kept."""
        weights: ChangesResults[Weights | None] = None
        """Weights low, mid, high for all references instead of the router's: control of granularity. Used as given."""

    def __init__(
        self, config: Config, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        super().__init__(resolve_levels(config.levels, depth), width=width, depth=depth)
        self.config = config
        self.experts = nn.ModuleList(Expert(width, context_width) for _ in self.layers)
        self.router = Router(width, config.router_hidden or width, config.router)
        self.generator = torch.Generator(device="cpu").manual_seed(0)
        """Drops experts in training; draws nothing at inference."""

    @property
    def defining(self) -> Mapping[str, JSON]:
        """Levels and the router's width as numbers."""
        return {"levels": [*self.layers], "router_hidden": self.config.router_hidden or self.width}

    def router_weights(self, features: Features) -> Float[Tensor, "b k 3"]:
        """What the router says of each reference: weights low, mid, high in float32, whatever weights are in use.

        Text has no place here. Rows are zero for references that a sample does not have; k is the most of any sample.

        Raises:
            ComponentError: features of another width or depth, or without a hidden state that is needed.
        """
        self.check(features)
        groups, count = token_groups(features)
        present = (groups[:, None] == torch.arange(count, device=groups.device)[:, None]).any(dim=2)
        weights = self._routed(features, groups, count).float()
        return (weights * present[..., None])[:, 1:]

    def explain(self, features: Features) -> list[dict[str, object]]:
        """What is recorded beside the images of each sample: the router's weights by reference, and those in use."""
        rows = self.router_weights(features).cpu()
        counts = [max(row, default=-1) + 1 for row in features.reference.tolist()]  # -1 where no reference is
        used = None if self.config.weights is None else list(self.config.weights)
        return [
            {
                "router_weights": [[round(w, 4) for w in reference] for reference in row[:count].tolist()],
                "weights": used,
            }
            for row, count in zip(rows, counts, strict=True)
        ]

    def fuse(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t d"]:
        """Weigh and add the experts' tokens."""
        weights = self._token_weights(features, places)
        parts = [
            weights[:, level, None] * expert(self.gather(features, layer, places))
            for level, (layer, expert) in enumerate(zip(self.layers, self.experts, strict=True))
            if self.config.weights is None or self.config.weights[level]
        ]
        return reduce(torch.add, parts)

    def _token_weights(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t 3"]:
        """Each token has the weights of its group."""
        groups, count = token_groups(features)
        by_hand = self.config.weights
        if by_hand is None:
            weights = self._routed(features, groups, count)
        else:
            precise = _precise(self.dtype)
            weights = torch.tensor(by_hand, dtype=precise, device=groups.device).expand(len(groups), count, -1)
        if self.training and self.config.expert_dropout:
            weights = drop_experts(weights, self.config.expert_dropout, self.generator)
        return weights[places.row, groups.flatten()[places.index]].to(self.dtype)

    def _routed(self, features: Features, groups: Int[Tensor, "b l"], count: int) -> Float[Tensor, "b g 3"]:
        speakers = speaking_tokens(groups, count, features.class_token).to(_precise(self.dtype))
        share = speakers / speakers.sum(dim=2, keepdim=True).clamp(min=1)
        valid = features.mask[..., None]
        means = [share @ torch.where(valid, hidden_state(features, layer), 0).to(share) for layer in self.layers]
        return self.router(torch.stack(means, dim=2).to(self.dtype))


def token_groups(features: Features) -> tuple[Int[Tensor, "b l"], int]:
    """The group of each token, and how many there are: 0 is text, k + 1 is reference k, -1 is padding."""
    owner = torch.where(features.modality == Modality.IMAGE, features.reference, -1)
    groups = (owner + 1).masked_fill(~features.mask, -1)
    return groups, 1 + (max(int(groups.max()), 0) if groups.numel() else 0)


def speaking_tokens(
    groups: Int[Tensor, "b l"], count: int, class_token: Bool[Tensor, "b l"] | None
) -> Bool[Tensor, "b g l"]:
    """The tokens that stand for each group: its class tokens, or all of its tokens where it has none."""
    members = groups[:, None] == torch.arange(count, device=groups.device)[:, None]
    if class_token is None:
        return members
    chosen = members & class_token[:, None]
    return torch.where(chosen.any(dim=2, keepdim=True), chosen, members)


def drop_experts(
    weights: Float[Tensor, "b g 3"], probability: float, generator: torch.Generator
) -> Float[Tensor, "b g 3"]:
    """Set weights to zero at random, each by itself; of those above zero, the one with the highest draw always stays.

    So each of three is left out with probability p - p^3 / 3, and never all of them. ``generator``: on the CPU.
    """
    draws = torch.rand(weights.shape, generator=generator, device="cpu").to(weights.device)
    last = draws.masked_fill(weights == 0, -1).argmax(dim=2, keepdim=True)
    return weights * (draws >= probability).scatter(2, last, True)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Weights are worked out in float32 at least: in bfloat16 their sum would be off by a percent."""
    return torch.promote_types(dtype, torch.float32)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
