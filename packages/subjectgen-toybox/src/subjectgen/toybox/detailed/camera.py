"""The camera: rays of an orthographic view, in the toy's frame, and where the badge lies in the picture."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.toybox.detailed import shapes
from subjectgen.toybox.shapes import Batch, Field, PerPicture, pixel_grid

HALF_VIEW = 1.12
"""Half of the picture's height, in toy units."""
DROP = 0.22
"""How far the toy's middle is below the picture's, in toy units."""
START = 2.2
"""Distance from the toy's axis at which rays begin."""

Point = tuple[Field, Field, Field]


def to_toy(batch: Batch, x: Field, y: Field, z: Field) -> Point:
    """From the camera's frame into the toy's: tilt by the polar angle, then turn by the azimuth."""
    cos_p, sin_p = batch.polar.cos(), batch.polar.sin()
    y, z = y * cos_p + z * sin_p, -y * sin_p + z * cos_p
    cos_a, sin_a = batch.azimuth.cos(), batch.azimuth.sin()
    return x * cos_a - z * sin_a, y, x * sin_a + z * cos_a


def to_camera(batch: Batch, x: Field, y: Field, z: Field) -> Point:
    """The inverse of :func:`to_toy`."""
    cos_a, sin_a = batch.azimuth.cos(), batch.azimuth.sin()
    x, z = x * cos_a + z * sin_a, -x * sin_a + z * cos_a
    cos_p, sin_p = batch.polar.cos(), batch.polar.sin()
    return x, y * cos_p - z * sin_p, y * sin_p + z * cos_p


def along_rays(batch: Batch, size: int, travelled: Field) -> Point:
    """Where the rays of all pixels are, in the toy's frame, after a distance."""
    u, v = pixel_grid(size, batch.width.device)
    x = u * HALF_VIEW - batch.offset[:, :1]
    y = v * HALF_VIEW - batch.offset[:, 1:] + DROP
    return to_toy(batch, *torch.broadcast_tensors(x, y, START - travelled))


def badge_place(batch: Batch) -> Float[Tensor, "pictures 2 3"]:
    """The badge's place as an affine map: picture = map @ (across, up, 1).

    ``across`` and ``up`` are -1 to 1 on the nine cells; the picture's coordinates are -1 to 1, x to the right and y
    downward, as ``torch.nn.functional.grid_sample`` has them. Exact, since the camera is orthographic.
    """
    zero = torch.zeros_like(batch.width)
    middle = _on_picture(batch, *shapes.off_plate(batch, zero, zero))
    right = _on_picture(batch, *shapes.off_plate(batch, zero + 1.5 * shapes.CELL, zero))
    top = _on_picture(batch, *shapes.off_plate(batch, zero, zero + 1.5 * shapes.CELL))
    return torch.stack([right - middle, top - middle, middle], dim=-1)


def _on_picture(batch: Batch, x: PerPicture, y: PerPicture, z: PerPicture) -> Float[Tensor, "pictures 2"]:
    x, y, _ = to_camera(batch, x, y, z)
    across = (x + batch.offset[:, :1]) / HALF_VIEW
    up = (y + batch.offset[:, 1:] - DROP) / HALF_VIEW
    return torch.cat([across, -up], dim=-1)
