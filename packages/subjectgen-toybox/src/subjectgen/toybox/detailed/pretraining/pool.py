"""Rendered training pictures on disk: bytes in safetensors, made once, shard by shard, and read by every training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from subjectgen.toybox.detailed.renderer import Renderer
from subjectgen.toybox.detailed.world import DetailedToy, ViewPair, family_of, training_view, view_pair
from subjectgen.toybox.world import Draw, View

SHARD = 1024
"""Pictures of a file."""
RELATIVES = 4
"""Consecutive toys that share all words."""
VIEWS = 2
"""Consecutive pictures that show the same toy."""
BITS = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
"""Of a byte of masks, the leftmost pixel first."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Pictures with what they show; pictures 2 k and 2 k + 1 show one toy, eight pictures toys of the same words."""

    toys: Sequence[DetailedToy]
    views: Sequence[View]
    images: UInt8[Tensor, "pictures 3 h w"]
    packed_masks: UInt8[Tensor, "pictures h w/8"]
    """Where the toys are, eight pixels a byte, the leftmost one highest."""

    def __len__(self) -> int:
        return len(self.toys)

    def batch(self, index: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [0, 1]."""
        return self.images[index].float() / 255

    def masks(self, index: Tensor) -> Bool[Tensor, "b 1 h w"]:
        """Where the toys are."""
        return (self.packed_masks[index][..., None] & BITS).bool().flatten(-2)[:, None]


def shard_facts(number: int, *, seed: int, pictures: int = SHARD) -> tuple[list[DetailedToy], list[View]]:
    """What the pictures of a shard show: pairs of views, every other pair with the same pose."""
    draw = Draw(seed * 1_000_003 + number)
    toys: list[DetailedToy] = []
    views: list[View] = []
    while len(toys) < pictures:
        for place, toy in enumerate(family_of(draw, RELATIVES)):
            pair: ViewPair = view_pair(draw, toy, shared_pose=place % 2 == 0)
            # Either view may wear something: the pool also serves trainings on single pictures.
            first = training_view(draw, toy) if place == RELATIVES - 1 else pair.first
            toys += [toy] * VIEWS
            views += [first, pair.second]
    return toys[:pictures], views[:pictures]


def render_pool(folder: Path, pictures: int, *, seed: int, compiled: bool = True, device: str = "cpu") -> None:
    """Render the shards that are not in the folder yet; it may be stopped and started again at any time."""
    folder.mkdir(parents=True, exist_ok=True)
    size = min(SHARD, pictures)
    missing = [path for path in enumerate(_paths(folder, pictures, seed)) if not path[1].exists()]
    renderer = Renderer(compiled=compiled, device=device)
    for number, path in track(missing, description="rendering"):
        if path.exists():  # by now: a larger pool may be rendered beside this one
            continue
        images, masks = renderer(*shard_facts(number, seed=seed, pictures=size))
        packed = (masks[:, 0].cpu().unflatten(-1, (-1, 8)) * BITS).sum(-1, dtype=torch.uint8)
        beside = path.with_suffix(".partial")
        save_file({"images": (images * 255).round().byte().cpu(), "masks": packed}, beside)
        beside.replace(path)


def open_pool(folder: Path, pictures: int, *, seed: int, compiled: bool = True, device: str = "cpu") -> Pool:
    """The pool from disk; what is missing is rendered first."""
    render_pool(folder, pictures, seed=seed, compiled=compiled, device=device)
    toys: list[DetailedToy] = []
    views: list[View] = []
    shards: list[dict[str, Tensor]] = []
    for number, path in enumerate(_paths(folder, pictures, seed)):
        more_toys, more_views = shard_facts(number, seed=seed, pictures=min(SHARD, pictures))
        toys += more_toys
        views += more_views
        shards.append(load_file(path))
    images, masks = (torch.cat([shard[name] for shard in shards])[:pictures] for name in ("images", "masks"))
    return Pool(toys=toys[:pictures], views=views[:pictures], images=images, packed_masks=masks)


def _paths(folder: Path, pictures: int, seed: int) -> list[Path]:
    """Files of shards; a small pool has smaller ones, which are other files."""
    size = min(SHARD, pictures)
    return [folder / f"seed-{seed}-{number:05d}-of-{size}.safetensors" for number in range(-(-pictures // size))]
