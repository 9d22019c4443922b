"""Masks from pictures, numbers and boxes, and the one rule that says what a mask is.

A mask is 1 inside and 0 outside; in between a pixel is covered in part. It selects what is at least one half, and one
that selects nothing is an error wherever it comes from.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from subjectgen.core.decoding import ImageSource, channels, is_opened, named, numbers, open_picture
from subjectgen.core.errors import InputError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
if TYPE_CHECKING:
    MaskSource: TypeAlias = ImageSource | Box
else:
    MaskSource = Any
WHITES = (1.0, 255.0, 65535.0)
"""The value of what is inside: the smallest of these that no value of the mask exceeds."""


def load_mask(
    source: MaskSource, size: tuple[int, int] | None = None, *, label: str = "mask"
) -> Float[Tensor, "1 h w"]:
    """Read a mask: white inside, black outside, grey in between. A box is inside, its surroundings outside.

    White is 1, 255 or 65535, whatever the depth of the file, so a mask of zeros and ones is one too. In a palette of
    colours, as label images have, every colour but black is inside. What is transparent is outside; colour profiles
    are not applied.

    Args:
        source: A picture, array or tensor as in :func:`~subjectgen.core.load_reference`, arrays and tensors also of
            booleans or whole numbers; or a box as four numbers, or as text such as ``0,0,0.5,1``: left, top, right,
            bottom, in pixels, or in shares of width and height where none exceeds 1.
        size: Rows and columns; needed for a box. A picture keeps its own size.
        label: What it is, for messages.

    Raises:
        InputError: Not a picture, one that selects nothing, or a box that is empty or reaches outside. Names the
            source.
    """
    box = _box(source, label)
    if box is None:
        assert not isinstance(source, tuple)
        name = named(source, label)
        found = _picture(open_picture(source, name), name) if is_opened(source) else _numbers(source, name)
        return check_mask(found, name)
    if size is None:
        raise InputError(f"{label} {source!r}: a box needs the size of its picture")
    return _box_mask(box, size, f"{label} {source!r}")


def check_mask(mask: Float[Tensor, "1 h w"], label: str) -> Float[Tensor, "1 h w"]:
    """Give a mask back if it is one.

    Raises:
        InputError: Another shape, values outside [0, 1], or nothing selected.
    """
    if mask.ndim != 3 or mask.shape[0] != 1 or not mask.numel():
        raise InputError(f"{label} has shape {tuple(mask.shape)}; expected 1 x height x width")
    if not bool(torch.isfinite(mask).all()) or float(mask.min()) < 0 or float(mask.max()) > 1:
        raise InputError(f"{label} has values outside [0, 1]; expected 1 inside and 0 outside")
    if not selects(mask):
        raise InputError(
            f"{label} is empty, its highest value is {float(mask.max()):.2g}; expected 1 inside, and pixels "
            "of at least one half (or no mask at all)"
        )
    return mask


def selects(mask: Tensor) -> bool:
    """Whether a mask selects anything."""
    return bool((mask >= 0.5).any())


# ------------------------------------------------------------------------------------------------------ pictures


def _picture(image: Image.Image, label: str) -> Float[Tensor, "1 h w"]:
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(torch.from_numpy(np.array(image, dtype=np.float32))[None], label)
    try:
        values = channels(image.convert("RGBA" if image.has_transparency_data else "RGB")).mul(255).round()
    except ValueError:
        raise InputError(f"{label}: colour mode {image.mode} has no way to grey") from None
    return _scaled(_labels(values) if image.mode in ("P", "PA") else values, label)


def _labels(values: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """A palette of greys as it is; of a palette of colours, every colour but black as white."""
    colour = values[:3]
    if bool((colour == colour[:1]).all()):
        return values
    inside = (colour > 0).any(dim=0, keepdim=True) * 255.0
    return torch.cat([inside.expand(3, -1, -1), values[3:]])


def _numbers(source: ImageSource, label: str) -> Float[Tensor, "1 h w"]:
    if isinstance(source, Tensor) and source.ndim == 2:
        source = source[None]
    values = numbers(source, label)
    if values.is_floating_point() and bool((values.abs() > 1).any()):  # a heat map or a logit is no mask
        raise InputError(f"{label}: got values in [{values.min():g}, {values.max():g}]; expected [0, 1]")
    return _scaled(values.float(), label)


def _scaled(values: Float[Tensor, "c h w"], label: str) -> Float[Tensor, "1 h w"]:
    """Mean of the colours times the opacity, each with its own white."""
    colour, alpha = values[:3].mean(dim=0, keepdim=True), values[3:]
    found = colour / _white(values[:3], label)
    return (found * alpha / _white(alpha, label) if len(alpha) else found).clamp(max=1)


def _white(values: Tensor, label: str) -> float:
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low + high) or low < 0 or high > WHITES[-1]:
        raise InputError(f"{label}: got values in [{low:g}, {high:g}]; expected white as 1, 255 or 65535")
    return next(white for white in WHITES if high <= white)


# --------------------------------------------------------------------------------------------------------- boxes


def _box(source: MaskSource, label: str) -> Box | None:
    if isinstance(source, str) and source.count(",") == 3 and not os.path.lexists(source):
        try:
            left, top, right, bottom = map(float, source.split(","))
        except ValueError:
            raise InputError(f"{label} {source!r}: expected a file, or four numbers left,top,right,bottom") from None
        return left, top, right, bottom
    return source if isinstance(source, tuple) else None


def _box_mask(box: Box, size: tuple[int, int], label: str) -> Float[Tensor, "1 h w"]:
    height, width = size
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise InputError(f"{label}: expected four finite numbers: left, top, right, bottom")
    shares = max(box) <= 1
    scale = (width, height, width, height) if shares else (1, 1, 1, 1)
    left, top, right, bottom = (round(value * by) for value, by in zip(box, scale, strict=True))
    if min(left, top) < 0 or right > width or bottom > height:
        raise InputError(f"{label}: reaches outside of the picture, which is {width} wide and {height} high")
    if left >= right or top >= bottom:
        raise InputError(f"{label}: is empty; expected left < right and top < bottom")
    mask = torch.zeros(1, height, width)
    mask[:, top:bottom, left:right] = 1
    return mask
