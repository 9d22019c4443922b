"""How well autoencoder and judge do on renders of held-out toys, picture by picture, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subjectgen.toybox.detailed.details import CELLS, CODE_BITS, bits
from subjectgen.toybox.detailed.judge import DetailedJudge, Verdict
from subjectgen.toybox.detailed.renderer import Renderer
from subjectgen.toybox.detailed.world import FAMILY, DetailedToy, held_out_toys, random_toy, random_view
from subjectgen.toybox.world import Draw, View, angular_difference

WORDS = ("shape", "pattern", "part", "colour")
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Renders of held-out toys with what they show."""

    toys: Sequence[DetailedToy]
    views: Sequence[View]
    images: Float[Tensor, "pictures 3 h w"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Pictures."""
    groups: int
    """What was drawn independently, and what the interval resamples: toys, or families."""


def held_out_pictures(count: int, *, seed: int, renderer: Renderer) -> Pictures:
    """One picture of each of many held-out toys, drawn independently."""
    draw = Draw(seed)
    toys = [random_toy(draw, held_out=True) for _ in range(count)]
    views = [random_view(draw) for _ in toys]
    return Pictures(toys=toys, views=views, images=renderer(toys, views)[0])


def held_out_families(count: int, *, seed: int, renderer: Renderer) -> tuple[Pictures, Pictures]:
    """Two pictures of every toy of held-out families of eight: a bare one for the gallery, and one to be recognised."""
    draw, toys = Draw(seed), held_out_toys(count * FAMILY, seed=seed)
    bare, shown = ([random_view(draw, accessories=worn) for _ in toys] for worn in (False, True))
    gallery = Pictures(toys=toys, views=bare, images=renderer(toys, bare)[0])
    return gallery, Pictures(toys=toys, views=shown, images=renderer(toys, shown)[0])


@torch.no_grad()
def judge_scores(judge: DetailedJudge, shown: Pictures) -> dict[str, Float[Tensor, " pictures"]]:
    """What the judge has right in each picture: shares and errors, NaN where a question does not apply."""
    verdicts = [verdict for part in shown.images.split(64) for verdict in judge.verdicts(part)]
    rows = [_row(*facts) for facts in zip(shown.toys, shown.views, verdicts, strict=True)]
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def _row(toy: DetailedToy, view: View, seen: Verdict) -> dict[str, float]:
    right = {name: float(seen.words[name] == getattr(toy, name)) for name in WORDS}
    patterned = toy.pattern != "plain"
    cells = sum(one == bool(bit) for one, bit in zip(seen.cells, bits(toy.details.badge, CELLS), strict=True))
    wrong_bits = (toy.details.code ^ seen.code).bit_count()
    return {
        "scene": float(seen.words["scene"] == view.scene),
        **right,
        "words": sum(right.values()) / len(right),
        "badge": float(seen.badge == toy.details.badge),
        "cells": cells / CELLS,
        "code": float(seen.code == toy.details.code) if patterned else math.nan,
        "code_bits": 1 - wrong_bits / CODE_BITS if patterned else math.nan,
        "tint_error": math.dist(seen.tint, toy.details.tint),
        "azimuth_error": angular_difference(float(seen.words["azimuth"]), view.azimuth),
        "polar_error": abs(float(seen.words["polar"]) - view.polar),
    }


@torch.no_grad()
def identity_scores(judge: DetailedJudge, gallery: Pictures, shown: Pictures) -> Float[Tensor, " pictures"]:
    """Whether each picture is nearest to its own toy among the eight of the gallery that share its words."""
    known, asked = (
        torch.cat([judge.identities(part) for part in pictures.images.split(64)]) for pictures in (gallery, shown)
    )
    similarity = torch.einsum("fgd,ftd->fgt", known.unflatten(0, (-1, FAMILY)), asked.unflatten(0, (-1, FAMILY)))
    return (similarity.argmax(1) == torch.arange(FAMILY)).flatten().float()


def means(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of every score over the pictures to which it applies."""
    return {name: float(values.nanmean()) for name, values in scores.items()}


def measured(values: Float[Tensor, " pictures"], groups: Int[Tensor, " pictures"] | None = None) -> Measured:
    """Mean and percentile interval of a bootstrap over groups (of one picture each by default)."""
    groups = torch.arange(len(values)) if groups is None else groups
    applies = ~values.isnan()
    values, groups = values[applies], groups[applies].unique(return_inverse=True)[1]
    count = int(groups.max()) + 1
    sums = torch.zeros(count).index_add_(0, groups, values)
    sizes = torch.zeros(count).index_add_(0, groups, torch.ones_like(values))
    chosen = torch.randint(count, (RESAMPLES, count), generator=Draw(0).generator)
    low, high = (sums[chosen].sum(1) / sizes[chosen].sum(1)).quantile(torch.tensor([0.025, 0.975])).tolist()
    return Measured(mean=float(values.mean()), low=low, high=high, n=len(values), groups=count)
