"""At which size a reference is encoded, so that latents can be cut into the backbone's patches.

Shape letters: h w pixels.
"""

from __future__ import annotations

from jaxtyping import Float
from PIL.Image import Resampling
from torch import Tensor

from subjectgen.core import InputError, fit_image, load_reference, to_pil

UNO_ALONE = 512
"""UNO's longer side of the only reference, in pixels."""
UNO_AMONG_OTHERS = 320
"""UNO's longer side of each of several references, in pixels."""


def shrunk(image: Float[Tensor, "3 h w"], *, longest: int, multiple: int) -> Float[Tensor, "3 h2 w2"]:
    """Shrink a picture to a longest side, never enlarge it, and stretch each side to the nearest multiple."""
    height, width = image.shape[-2:]
    shrink = min(1.0, longest / max(height, width))

    def side(pixels: int) -> int:
        steps = min(round(pixels * shrink / multiple), longest // multiple)
        return max(steps, 1) * multiple

    return fit_image(image, (side(height), side(width)), "stretch")


def shrunk_to_area(image: Float[Tensor, "3 h w"], *, area: int, multiple: int) -> Float[Tensor, "3 h2 w2"]:
    """Shrink a picture to at most so many pixels, never enlarge it, and stretch each side to a multiple.

    A side is rounded to the nearest multiple; where both together are too many pixels, the one that was rounded up more
    is rounded down.
    """
    height, width = image.shape[-2:]
    shrink = min(1.0, (area / (height * width)) ** 0.5)
    exact = [height * shrink / multiple, width * shrink / multiple]
    steps = [max(round(side), 1) for side in exact]
    while steps[0] * steps[1] * multiple**2 > area and max(steps) > 1:
        larger = max(range(2), key=lambda place: (steps[place] > 1, steps[place] - exact[place]))
        steps[larger] -= 1
    return fit_image(image, (steps[0] * multiple, steps[1] * multiple), "stretch")


def as_uno(image: Float[Tensor, "3 h w"], *, references: int, multiple: int = 16) -> Float[Tensor, "3 h2 w2"]:
    """A reference as UNO prepares it: enlarged or shrunk to one longer side, then cropped to multiples, centred.

    Bit for bit ``preprocess_ref`` of https://github.com/bytedance/UNO at d305981 (``uno/flux/pipeline.py``), for
    pictures of 8 bits: Pillow's Lanczos filter, sides rounded down.

    Args:
        image: RGB in [0, 1].
        references: how many references the sample has; UNO shows one larger than several.
        multiple: of which the sides are multiples; 16 for FLUX.

    Raises:
        InputError: a picture so narrow that nothing would be left of it.
    """
    height, width = image.shape[-2:]
    longest = UNO_ALONE if references <= 1 else UNO_AMONG_OTHERS
    # UNO's own order of operations: the last bit of the quotient decides on a pixel.
    rows, columns = (
        (int((longest / width) * height), longest) if width >= height else (longest, int((longest / height) * width))
    )
    kept_rows, kept_columns = rows // multiple * multiple, columns // multiple * multiple
    if not kept_rows or not kept_columns:
        raise InputError(
            f"a reference of {height}x{width} pixels becomes {rows}x{columns}, of which no side of {multiple} pixels "
            "is left; expected a picture that is less narrow, or resize: nearest"
        )
    resized = load_reference(to_pil(image).resize((columns, rows), resample=Resampling.LANCZOS)).image.to(image)
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    return resized[:, top : top + kept_rows, left : left + kept_columns]
