"""Sizes of targets: one size, buckets by aspect ratio, or as they are; and how a picture is brought to one.

Shape letters: c channels, h w height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import PositiveInt, model_validator
from torch import Tensor

from subjectgen.core import ChangesResults, Config
from subjectgen.core.images import resize_antialiased

Size = tuple[int, int]
"""Height and width."""


class SizedConfig(Config):
    """Options that all of these data sets share: how big pictures are made."""

    size: ChangesResults[PositiveInt | tuple[PositiveInt, PositiveInt] | None] = None
    """Pixels of the target: a square's side, or height and width. Without it and ``buckets``, as the file is."""
    buckets: ChangesResults[tuple[tuple[PositiveInt, PositiveInt], ...]] = ()
    """Sizes, height and width, of which each target takes that of the nearest aspect ratio."""
    random_crop: ChangesResults[bool] = False
    """In training, what is too long is cut at a random place; else, and whenever nothing is trained, at both ends."""
    mirror: ChangesResults[bool] = False
    """In training, every second target is mirrored, left for right. Never the references. Not for writing or logos."""
    reference_area: ChangesResults[PositiveInt | None] = None
    """Pixels that a reference may have, such as 1048576 for 1024²; larger ones are made smaller, their aspect kept."""

    @model_validator(mode="after")
    def _fits(self) -> SizedConfig:
        if self.size is not None and self.buckets:
            raise ValueError("got size and buckets; expected one of them")
        if len(set(self.buckets)) < len(self.buckets):
            raise ValueError("buckets: the same size is there twice")
        if self.random_crop and self.size is None and not self.buckets:
            raise ValueError(
                "got random_crop without size or buckets; nothing is cut from targets that stay as they are"
            )
        return self

    def target_size(self, picture: Size) -> Size:
        """The size of a target whose file has this one."""
        if self.buckets:
            return nearest_bucket(picture, self.buckets)
        return picture if self.fixed is None else self.fixed

    @property
    def fixed(self) -> Size | None:
        """The size of all targets, if they have one."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def nearest_bucket(picture: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect ratio is nearest on a logarithmic scale, so that 2:1 and 1:2 are as far from 1:1.

    Of buckets of one aspect the one whose area is nearest, on the same scale; of those still equal, the first.
    """
    height, width = picture

    def distance(bucket: Size) -> tuple[float, float]:
        aspect = abs(math.log(height * bucket[1] / (width * bucket[0])))
        return round(aspect, 9), round(abs(math.log(height * width / (bucket[0] * bucket[1]))), 9)

    return min(buckets, key=distance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """What of a picture is kept when it is brought to a size."""

    place: tuple[float, float] | None = None
    """Where the frame stands in what is too long, down and across, each in [0, 1); ``None``: in the middle."""
    mirror: bool = False

    @classmethod
    def drawn(cls, seed: int, config: SizedConfig) -> Framing:
        """What this seed makes of it, as far as the options let it."""
        down, across, side = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
        return cls(place=(down, across) if config.random_crop else None, mirror=config.mirror and side < 0.5)

    def apply(
        self, image: Float[Tensor, "c h w"], size: Size, covering: Size | None = None
    ) -> Float[Tensor, "c h2 w2"]:
        """Resize an image to cover the size, cut it and mirror it; one that has the size is only mirrored.

        Args:
            image: Values in [0, 1].
            size: What comes out.
            covering: The picture that decides; its own size by default. A mask of another size is cut as it is.
        """
        rows, columns = cover(covering or (image.shape[1], image.shape[2]), size)
        resized = resize_antialiased(image, rows, columns)
        top, left = self._corner(rows - size[0], columns - size[1])
        cut = resized[:, top : top + size[0], left : left + size[1]]
        return cut.flip(-1) if self.mirror else cut.contiguous()

    def _corner(self, down: int, across: int) -> Size:
        if self.place is None:
            return down // 2, across // 2
        return int(self.place[0] * (down + 1)), int(self.place[1] * (across + 1))


def cover(picture: Size, size: Size) -> Size:
    """The smallest size of the picture's aspect that covers another."""
    scale = max(size[0] / picture[0], size[1] / picture[1])
    return max(size[0], round(picture[0] * scale)), max(size[1], round(picture[1] * scale))


def within_area(picture: Size, area: int | None) -> Size:
    """The picture's size, or the largest of its aspect with no more than so many pixels."""
    pixels = picture[0] * picture[1]
    if area is None or pixels <= area:
        return picture
    scale = math.sqrt(area / pixels)
    rows = max(1, min(area, math.floor(picture[0] * scale)))
    return rows, max(1, min(math.floor(picture[1] * scale), area // rows))
