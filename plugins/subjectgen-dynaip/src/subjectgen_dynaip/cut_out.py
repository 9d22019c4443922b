"""A subject alone on white, in a square: what CLIP sees of a reference (DynaIP B.1)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from subjectgen.core import InputError, check_mask, fit_image


def cut_out(
    image: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 _ _"] | None,
    *,
    size: int,
    surroundings: Literal["white", "keep"] = "white",
    margin: float | None = None,
) -> Float[Tensor, "3 size size"]:
    """Lay the subject on white and bring it to a square, padded with white.

    Args:
        image: RGB in [0, 1].
        mask: 1 inside the subject; ``None`` keeps the whole picture.
        size: pixels of the square's side.
        surroundings: ``keep`` leaves what is outside of the mask.
        margin: crop to the subject's box and this share of its longer side around it; ``None`` keeps the frame.

    Raises:
        InputError: values of the picture outside [0, 1]; a mask of another size, empty, or with values outside [0, 1].
    """
    if not image.numel():
        raise InputError(f"reference: is {image.shape[-2]}x{image.shape[-1]}; expected a picture with pixels")
    if not bool(torch.isfinite(image).all()) or float(image.min()) < 0 or float(image.max()) > 1:
        raise InputError("reference: has values outside [0, 1]; expected an RGB picture in [0, 1]")
    if mask is not None:
        _check(image, mask)
        if surroundings == "white":
            image = image * mask + (1 - mask)
        if margin is not None:
            image = _cropped(image, mask, margin)
    return fit_image(image, size, "pad")


def _check(image: Tensor, mask: Tensor) -> None:
    if mask.shape[-2:] != image.shape[-2:]:
        sizes = (*mask.shape[-2:], *image.shape[-2:])
        raise InputError("subject mask: is {}x{}; expected the size of its reference, {}x{}".format(*sizes))
    check_mask(mask, "subject mask")


def _cropped(image: Tensor, mask: Tensor, margin: float) -> Tensor:
    """The subject's box with its margin; white where it reaches past the picture."""
    inside = mask[0] >= 0.5
    rows, columns = inside.any(dim=1).nonzero(), inside.any(dim=0).nonzero()
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    around = round(margin * max(bottom - top, right - left))
    height, width = image.shape[-2:]
    sides = (around - left, right + around - width, around - top, bottom + around - height)
    return functional.pad(image, sides, value=1.0)
