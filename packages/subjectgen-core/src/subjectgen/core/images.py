"""Pictures in and out: any image file becomes an RGB tensor in [0, 1].

Shape letters: c channels, h w height and width.
"""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from subjectgen.core.errors import InputError, nearest
from subjectgen.core.samples import Reference

Source = str | os.PathLike[str] | bytes | Image.Image


def load_reference(source: Source, *, name: str | None = None) -> Reference:
    """Read a reference image.

    Transparent parts are laid on white, the camera's rotation is applied, and grey, 16-bit, palette and CMYK pictures
    become RGB. Of an animation the first frame is taken.

    Args:
        source: A file, the bytes of one, or an opened picture.
        name: Name of the subject, kept in the reference.

    Raises:
        InputError: No such file, or not an image that can be decoded to its end. Names the file.
    """
    label = f"reference {os.fspath(source)!r}" if isinstance(source, (str, os.PathLike)) else "reference image"
    return Reference(image=_to_tensor(_open(source, label), label), name=name)


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def load_mask(
    source: Source | Box, size: tuple[int, int] | None = None, *, label: str = "mask"
) -> Float[Tensor, "1 h w"]:
    """Read a mask: white inside, black outside, grey in between. A box is inside, its surroundings outside.

    What is transparent in a picture is outside.

    Args:
        source: A picture as in :func:`load_reference`; or a box as four numbers, or as text such as ``0,0,0.5,1``:
            left, top, right, bottom, in pixels, or in shares of width and height where none exceeds 1.
        size: Rows and columns; needed for a box. A picture keeps its own size.
        label: What it is, for messages.

    Raises:
        InputError: Not a picture, or a box that is empty or reaches outside. Names the source.
    """
    box = _box(source, label)
    if box is None:
        assert not isinstance(source, tuple)
        name = f"{label} {os.fspath(source)!r}" if isinstance(source, (str, os.PathLike)) else label
        return _to_tensor(_open(source, name), name, ground=0.0).mean(dim=0, keepdim=True)
    if size is None:
        raise InputError(f"{label} {source!r}: a box needs the size of its picture")
    return _box_mask(box, size, f"{label} {source!r}")


def _box(source: Source | Box, label: str) -> Box | None:
    if isinstance(source, str) and source.count(",") == 3 and not Path(source).exists():
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


def to_pil(image: Float[Tensor, "3 h w"]) -> Image.Image:
    """Turn an RGB tensor in [0, 1] into an 8-bit picture; values outside are clipped.

    Raises:
        InputError: Values that are not finite.
    """
    image = image.detach().float().cpu()
    if not bool(torch.isfinite(image).all()):
        raise InputError("image: got values that are not finite; expected RGB in [0, 1]")
    return Image.fromarray(image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy())


def fit_image(
    image: Float[Tensor, "c h w"],
    size: int | tuple[int, int],
    mode: Literal["pad", "crop", "stretch"] = "pad",
    *,
    fill: float = 1.0,
) -> Float[Tensor, "c h2 w2"]:
    """Bring an image to a size with antialiased bicubic resampling.

    Args:
        image: Values in [0, 1].
        size: Rows and columns, or one number for a square.
        mode: ``pad`` keeps all of it, centred on ``fill``; ``crop`` cuts what is too long, centred; ``stretch`` gives
            up the aspect ratio.
        fill: Value of the padding; white.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if mode == "stretch":
        return _resize(image, height, width)
    ratios = height / image.shape[1], width / image.shape[2]
    scale = min(ratios) if mode == "pad" else max(ratios)
    rows, columns = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[2] * scale))
    resized = _resize(image, rows, columns)
    if mode == "crop":
        top, left = (rows - height) // 2, (columns - width) // 2
        return resized[:, top : top + height, left : left + width]
    canvas = image.new_full((image.shape[0], height, width), fill)
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas[:, top : top + rows, left : left + columns] = resized
    return canvas


def _resize(image: Float[Tensor, "c h w"], height: int, width: int) -> Float[Tensor, "c h2 w2"]:
    if image.shape[1:] == (height, width):
        return image
    resized = functional.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]
    return resized.clamp(0, 1)  # bicubic overshoots at edges


# ------------------------------------------------------------------------------------------------------ decoding


def _open(source: Source, label: str) -> Image.Image:
    if isinstance(source, (str, os.PathLike)) and not Path(source).is_file():
        folder = Path(source).parent
        siblings = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
        raise InputError(f"{label}: no such file{nearest(Path(source).name, siblings)}")
    try:
        image = source if isinstance(source, Image.Image) else Image.open(_stream(source))
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more on a damaged file
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else f"cannot be decoded: {error}"
        raise InputError(f"{label}: {reason}; expected a complete PNG, JPEG, WebP, TIFF, BMP or GIF") from error


def _stream(source: str | os.PathLike[str] | bytes) -> io.BytesIO:
    """All bytes at once, so that no file stays open."""
    return io.BytesIO(source if isinstance(source, bytes) else Path(source).read_bytes())


def _to_tensor(image: Image.Image, label: str, *, ground: float = 1.0) -> Float[Tensor, "3 h w"]:
    """Values in [0, 1]; transparent parts lie on this grey, 1 is white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(np.asarray(image, dtype=np.float32), 1.0 if image.mode == "F" else 65535.0, label)
    try:
        values = _unit(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except ValueError:
        raise InputError(f"{label}: colour mode {image.mode} has no way to RGB") from None
    colour, alpha = values[:3], values[3:]
    return colour * alpha + (1 - alpha) * ground if len(alpha) else colour


def _unit(image: Image.Image) -> Float[Tensor, "c h w"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255).contiguous()


def _grey(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], white: float, label: str) -> Tensor:
    """Grey values of more than 8 bits, black 0 and ``white`` the brightest."""
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > white:
        raise InputError(f"{label}: got grey values in [{values.min():g}, {values.max():g}]; expected [0, {white:g}]")
    return torch.from_numpy(values / white).expand(3, *values.shape).contiguous()
