"""Images into what a vision tower reads, with the checkpoint's own arithmetic, sizes and statistics.

Shape letters: n images, h w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from subjectgen.core import CheckpointError, InputError, fit_image, to_pil
from subjectgen.encoders.loading import CheckpointConfig

_BYTE = 255.0
_BICUBIC = 3
"""What the processors of InternVL3 and Qwen2.5-VL take where their file names no filter."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The numbers of ``preprocessor_config.json`` that matter for one image."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    """Multiplies an image in [0, 1]; 1 where the checkpoint divides bytes by 255."""
    values: dict[str, Any]
    """The whole file, for sizes and patches."""

    @classmethod
    def from_checkpoint(cls, config: CheckpointConfig) -> Preprocessing:
        """Read the file, or the ``image_processor`` part of ``processor_config.json``."""
        values = config.located().json("preprocessor_config.json", "processor_config.json", needed=True)
        if values is None:
            raise CheckpointError(f"checkpoint {config.checkpoint!r} has no preprocessor_config.json")
        values = values.get("image_processor", values)
        missing = [key for key in ("image_mean", "image_std") if key not in values]
        if missing:
            raise CheckpointError(f"preprocessor_config.json of {config.checkpoint!r} lacks {', '.join(missing)}")
        normalize, rescale = values.get("do_normalize", True), values.get("do_rescale", True)
        return cls(
            mean=tuple(values["image_mean"]) if normalize else (0.0,) * 3,
            std=tuple(values["image_std"]) if normalize else (1.0,) * 3,
            scale=_BYTE * values.get("rescale_factor", 1 / _BYTE) if rescale else _BYTE,
            values=values,
        )

    def fit(
        self, image: Float[Tensor, "3 h w"], size: tuple[int, int], mode: Literal["pad", "crop", "stretch"]
    ) -> Float[Tensor, "3 h2 w2"]:
        """Bring an image in [0, 1] to a size as the checkpoint's processor would, bit for bit: by Pillow, in 8 bits.

        In floating point, single pixels of photos come out up to 11 grey levels different, where bicubic resampling
        overshoots in one direction and 8 bits cut it off before the other.
        """
        return fit_image(image, size, mode, resize=self._resize)

    def _resize(self, image: Float[Tensor, "3 h w"], height: int, width: int) -> Float[Tensor, "3 h2 w2"]:
        resized = to_pil(image).resize((width, height), Image.Resampling(self.values.get("resample", _BICUBIC)))
        return torch.from_numpy(np.array(resized)).to(image.device).permute(2, 0, 1).to(image.dtype).div(_BYTE)

    def normalize(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Scale images in [0, 1] and standardise each channel."""
        mean = images.new_tensor(self.mean).view(1, 3, 1, 1)
        std = images.new_tensor(self.std).view(1, 3, 1, 1)
        return (images * self.scale - mean) / std


def check_images(images: Sequence[Tensor]) -> None:
    """Raise unless every image is RGB in [0, 1] with at least one pixel."""
    for image in images:
        if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0 or not image.is_floating_point():
            shape = "x".join(map(str, image.shape))
            raise InputError(f"a reference must be a floating-point RGB image 3xHxW, found {image.dtype} {shape}")
        if not torch.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise InputError("a reference image must have finite values in [0, 1]")


def native_size(height: int, width: int, *, multiple: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Nearest size whose sides are multiples, aspect ratio kept and area within bounds.

    Qwen2-VL's rule (arXiv 2409.12191, section 2.1), ``smart_resize`` in its processor; but a very long image, which
    that rule leaves larger than ``max_pixels`` or refuses, is shortened.
    """
    sides = round(height / multiple) * multiple, round(width / multiple) * multiple
    if sides[0] * sides[1] > max_pixels:  # divisions in the processor's order: a last bit decides at whole multiples
        shrink = math.sqrt(height * width / max_pixels)
        sides = math.floor(height / shrink / multiple) * multiple, math.floor(width / shrink / multiple) * multiple
    elif sides[0] * sides[1] < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        sides = math.ceil(height * grow / multiple) * multiple, math.ceil(width * grow / multiple) * multiple
    rows, columns = max(multiple, sides[0]), max(multiple, sides[1])
    longest = max(multiple, max_pixels // min(rows, columns) // multiple * multiple)
    return min(rows, longest), min(columns, longest)


def patchify(
    image: Float[Tensor, "3 h w"], *, patch: int, merge: int, temporal: int
) -> tuple[Float[Tensor, "rows values"], tuple[int, int, int]]:
    """Cut an image into Qwen2-VL's patches: those that are merged later stand together, the image repeated in time.

    Returns the patches and the grid (1, rows, columns).
    """
    channels, height, width = image.shape
    rows, columns = height // patch, width // patch
    cut = image.reshape(channels, rows // merge, merge, patch, columns // merge, merge, patch)
    cut = cut.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5).expand(-1, -1, -1, -1, -1, temporal, -1, -1)
    return cut.reshape(rows * columns, channels * temporal * patch * patch), (1, rows, columns)
