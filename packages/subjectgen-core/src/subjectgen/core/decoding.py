"""Pictures from outside, whatever holds them: files, bytes, Pillow's pictures, arrays and tensors.

Shape letters: c channels, h w height and width.
"""

from __future__ import annotations

import errno
import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from subjectgen.core.errors import InputError, nearest

if TYPE_CHECKING:
    ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any] | Tensor
    """A file, the bytes of one, a picture, an array (height, width, channels) or a tensor (channels, height, width)."""
else:
    ImageSource = Any  # anything else is refused in words, not by a checker of types

ACCEPTED = (
    "a file's path, its bytes, a PIL image, a NumPy array HxW, HxWx3 or HxWx4, or a torch tensor 1xHxW, 3xHxW or 4xHxW,"
    " both uint8 or floating-point in [0, 1]"
)


def named(source: ImageSource, what: str) -> str:
    """What to call a source in messages: its path, where it has one."""
    return f"{what} {os.fspath(source)!r}" if isinstance(source, (str, os.PathLike)) else what


def is_opened(source: ImageSource) -> bool:
    """Whether it is a picture or has to be opened as one; if not, it is numbers or nothing known."""
    return isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image))


def open_picture(source: ImageSource, label: str) -> Image.Image:
    """Decode all of a picture and turn it as the camera was held.

    Raises:
        InputError: Nothing there, a folder, not readable, or not an image to its end.
    """
    content = source if isinstance(source, Image.Image) else io.BytesIO(_bytes(source, label))
    try:
        image = content if isinstance(content, Image.Image) else Image.open(content)
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more on a damaged file
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else f"cannot be decoded: {error}"
        raise InputError(f"{label}: {reason}; expected a complete PNG, JPEG, WebP, TIFF, BMP or GIF") from error


def _bytes(source: Any, label: str) -> bytes:
    """All bytes at once, so that no file stays open."""
    if not isinstance(source, (str, os.PathLike)):
        return bytes(source)
    path = Path(source)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(f"{label}: is a link to {os.readlink(path)!r}, which is not there") from None
        siblings = (entry.name for entry in path.parent.iterdir()) if os.path.isdir(path.parent) else ()
        raise InputError(f"{label}: no such file{nearest(path.name, siblings)}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        if os.path.isdir(path) and getattr(error, "errno", None) in (errno.EISDIR, errno.EACCES):  # EACCES: Windows
            raise InputError(f"{label}: is a folder; expected a picture") from None
        raise InputError(f"{label}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


# ------------------------------------------------------------------------------------------------------- colours


def colours(image: Image.Image, label: str) -> Float[Tensor, "c h w"]:
    """Red, green and blue in sRGB, and opacity where there is transparency; all in [0, 1]."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, label)
    try:
        return channels(in_srgb(image, label).convert("RGBA" if image.has_transparency_data else "RGB"))
    except ValueError:
        raise InputError(f"{label}: colour mode {image.mode} has no way to RGB") from None


def channels(image: Image.Image) -> Float[Tensor, "c h w"]:
    """The channels of an 8-bit picture, 255 as 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255).contiguous()


def _deep_grey(image: Image.Image, label: str) -> Float[Tensor, "3 h w"]:
    """Grey values of more than 8 bits, black 0 and the brightest 1."""
    values, white = np.asarray(image, dtype=np.float32), 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > white:
        raise InputError(f"{label}: got grey values in [{values.min():g}, {values.max():g}]; expected [0, {white:g}]")
    return torch.from_numpy(values / white).expand(3, *values.shape).contiguous()


def in_srgb(image: Image.Image, label: str) -> Image.Image:
    """The picture in sRGB by the colour profile that it carries; as it is where it has none or a broken one."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    opacity = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    plain = image if image.mode in ("RGB", "L", "CMYK", "LAB") else image.convert("L" if image.mode == "LA" else "RGB")
    try:
        stated = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.profileToProfile(plain, stated, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        warnings.warn(f"{label}: its colour profile cannot be used, colours are taken as sRGB: {error}", stacklevel=2)
        return image
    assert found is not None
    if plain.mode == "RGB" and _difference(plain, found) <= 1:  # sRGB itself, but for rounding: bits stay as they are
        found = plain
    if opacity is not None:
        found.putalpha(opacity)
    return found


_SRGB = ImageCms.createProfile("sRGB")


def _difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).max(initial=0))


# ------------------------------------------------------------------------------------------------------- numbers


def numbers(source: ImageSource, label: str) -> Tensor:
    """An array or tensor as a tensor (channels, height, width) of its own type, in memory of its own.

    Raises:
        InputError: Another type or shape. Says what is accepted.
    """
    if isinstance(source, Tensor):
        found = source.detach().cpu().clone()
    elif isinstance(source, np.ndarray) and source.dtype.kind in "biuf":
        found = torch.from_numpy(np.array(source, order="C"))
        found = found.movedim(-1, 0) if found.ndim == 3 else found[None]
    else:
        kind = type(source).__name__ + (f" of {source.dtype}" if isinstance(source, np.ndarray) else "")
        raise InputError(f"{label}: got {kind}; expected {ACCEPTED}")
    if found.ndim != 3 or len(found) not in (1, 3, 4) or not found.numel():
        shape = "x".join(map(str, source.shape))
        raise InputError(f"{label}: got {type(source).__name__} of shape {shape}; expected {ACCEPTED}")
    return found.contiguous()


def unit_numbers(values: Tensor, label: str) -> Float[Tensor, "c h w"]:
    """Numbers of a picture in [0, 1]: bytes divided by 255, floating-point ones as they are.

    Raises:
        InputError: Another type, or values outside.
    """
    if values.dtype == torch.uint8:
        return values.float().div(255)
    if not values.is_floating_point():
        raise InputError(f"{label}: got values of type {str(values.dtype).removeprefix('torch.')}; expected {ACCEPTED}")
    values = values.float()
    low, high = float(values.min()), float(values.max())
    if not torch.isfinite(values).all() or low < 0 or high > 1:
        raise InputError(f"{label}: got values in [{low:g}, {high:g}]; expected floating-point values in [0, 1]")
    return values
