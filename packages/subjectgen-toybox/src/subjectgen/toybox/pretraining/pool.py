"""A pool of rendered training pictures, kept as bytes; held-out toys and combinations never enter it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from rich.progress import track
from torch import Tensor

from subjectgen.toybox import shapes
from subjectgen.toybox.renderer import render_batch
from subjectgen.toybox.shapes import Batch, Field
from subjectgen.toybox.world import Draw, Toy, View, is_held_out, random_toy, recoloured, training_view


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Pictures with what they show."""

    toys: list[Toy]
    views: list[View]
    images: UInt8[Tensor, "pictures 3 h w"]
    masks: Bool[Tensor, "pictures 1 h w"] | None = None
    """Where the toys are, if that was asked for."""

    def __len__(self) -> int:
        return len(self.toys)

    def batch(self, index: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [0, 1]."""
        return self.images[index].float() / 255


def training_pool(
    pictures: int,
    *,
    seed: int,
    views_per_toy: int = 2,
    family: int = 1,
    masks: bool = False,
    compiled: bool = True,
    device: str = "cpu",
) -> Pool:
    """Draw and render. Consecutive ``views_per_toy`` pictures show the same toy, consecutive ``family`` toys share
    their colours (where they have a pattern and a part to carry them). ``masks`` keeps where the toys are.
    """
    draw = Draw(seed)
    toys: list[Toy] = []
    views: list[View] = []
    while len(toys) < pictures:
        first = random_toy(draw)
        for toy in [first, *(_relative(draw, first) for _ in range(family - 1))]:
            for _ in range(views_per_toy):
                toys.append(toy)
                views.append(training_view(draw, toy))
    images, inside = render_bytes(toys, views, compiled=compiled, device=device)
    return Pool(toys=toys, views=views, images=images, masks=inside if masks else None)


def _relative(draw: Draw, first: Toy) -> Toy:
    """Another toy in the first one's colours."""
    while True:
        toy = recoloured(random_toy(draw), first)
        if not is_held_out(toy):
            return toy


def render_bytes(
    toys: list[Toy], views: list[View], *, compiled: bool = True, device: str = "cpu", chunk: int = 32
) -> tuple[UInt8[Tensor, "pictures 3 64 64"], Bool[Tensor, "pictures 1 64 64"]]:
    """Render many pictures with their masks; ``compiled`` is four times faster after fifteen seconds of warm-up."""
    distance = compiled_distance() if compiled else shapes.distance
    images, masks = [], []
    for start in track(range(0, len(toys), chunk), description="rendering"):
        batch = Batch.of(toys[start : start + chunk], views[start : start + chunk], device)
        pictures, inside = render_batch(batch, distance=distance)
        images.append((pictures * 255).round().byte().cpu())
        masks.append(inside.cpu())
    return torch.cat(images), torch.cat(masks)


def compiled_distance() -> Callable[..., Field]:
    """:func:`subjectgen.toybox.shapes.distance` through ``torch.compile``."""

    @dataclass
    class Bare:  # torch.compile guards plain attributes more cheaply than a frozen dataclass with nine tensors
        shape: Tensor
        part: Tensor
        accessory: Tensor
        width: Tensor
        height: Tensor

    def bare(*arguments: Any) -> Field:
        return shapes.distance(Bare(*arguments[:5]), *arguments[5:])  # type: ignore[arg-type]

    fast = torch.compile(bare, dynamic=False)

    def distance(batch: Batch, x: Field, y: Field, z: Field) -> Field:
        return fast(batch.shape, batch.part, batch.accessory, batch.width, batch.height, x, y, z)

    return distance
