"""Pictures in and out: whatever holds a picture becomes an RGB tensor in [0, 1].

Shape letters: c channels, h w height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from subjectgen.core.decoding import ImageSource, colours, is_opened, named, numbers, open_picture, unit_numbers
from subjectgen.core.errors import InputError
from subjectgen.core.samples import Reference

Resize: TypeAlias = Callable[[Tensor, int, int], Tensor]
"""An image, rows and columns -> the image of that size."""


def load_reference(source: ImageSource, *, name: str | None = None) -> Reference:
    """Read a reference image; :func:`image_tensor` says what may hold it.

    Args:
        source: The picture.
        name: Name of the subject, kept in the reference.

    Raises:
        InputError: Not an image, or no such file. Names the file.
    """
    return Reference(image=image_tensor(source, what="reference"), name=name)


def image_tensor(source: ImageSource, *, what: str = "image") -> Float[Tensor, "3 h w"]:
    """Whatever holds a picture, as sRGB in [0, 1].

    Transparent parts are laid on white, the camera's rotation and a colour profile are applied, and grey, 16-bit,
    palette and CMYK pictures become RGB. Of an animation the first frame is taken.

    Args:
        source: A file, the bytes of one, a PIL image; a NumPy array (height, width) or (height, width, 3 or 4); a torch
            tensor (1, 3 or 4, height, width). Numbers are ``uint8``, or floating-point in [0, 1].
        what: What it is, for messages.

    Returns:
        ``float32`` on the CPU, in memory of its own.

    Raises:
        InputError: Another type or shape, values outside, no such file, or not an image that can be decoded to its
            end. Names the file.
    """
    label = named(source, what)
    if is_opened(source):
        values = colours(open_picture(source, label), label)
    else:
        values = unit_numbers(numbers(source, label), label)
    colour, alpha = values[:3], values[3:]
    return (colour * alpha + (1 - alpha) if len(alpha) else colour.expand(3, -1, -1)).contiguous()


def to_pil(image: Float[Tensor, "3 h w"]) -> Image.Image:
    """Turn an RGB tensor in [0, 1] into an 8-bit picture; values outside are clipped.

    Raises:
        InputError: Values that are not finite.
    """
    image = image.detach().float().cpu()
    if not bool(torch.isfinite(image).all()):
        raise InputError("image: got values that are not finite; expected RGB in [0, 1]")
    return Image.fromarray(image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy())


def resize_antialiased(image: Float[Tensor, "c h w"], height: int, width: int) -> Float[Tensor, "c h2 w2"]:
    """Antialiased bicubic resampling in floating point, clipped to [0, 1]; the same size is the same image."""
    if image.shape[1:] == (height, width):
        return image
    resized = functional.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]
    return resized.clamp(0, 1)  # bicubic overshoots at edges


def fit_image(
    image: Float[Tensor, "c h w"],
    size: int | tuple[int, int],
    mode: Literal["pad", "crop", "stretch"] = "pad",
    *,
    fill: float = 1.0,
    resize: Resize = resize_antialiased,
) -> Float[Tensor, "c h2 w2"]:
    """Bring an image to a size.

    Args:
        image: Values in [0, 1].
        size: Rows and columns, or one number for a square.
        mode: ``pad`` keeps all of it, centred on ``fill``; ``crop`` cuts what is too long, centred; ``stretch`` gives
            up the aspect ratio.
        fill: Value of the padding; white.
        resize: How it is resampled: antialiased bicubic.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if mode == "stretch":
        return resize(image, height, width)
    ratios = height / image.shape[1], width / image.shape[2]
    scale = min(ratios) if mode == "pad" else max(ratios)
    rows, columns = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[2] * scale))
    resized = resize(image, rows, columns)
    if mode == "crop":
        top, left = (rows - height) // 2, (columns - width) // 2
        return resized[:, top : top + height, left : left + width]
    canvas = image.new_full((image.shape[0], height, width), fill)
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas[:, top : top + rows, left : left + columns] = resized
    return canvas
