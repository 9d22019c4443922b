"""Surfaces of detailed toys: the bodies and parts of the first world, a badge plate, a face above it, a scarf between.

Coordinates are (pictures, pixels) in the toy's own frame: +y up, +z where the face is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from subjectgen.toybox import shapes
from subjectgen.toybox.detailed.details import CODE_BITS
from subjectgen.toybox.detailed.world import DetailedToy
from subjectgen.toybox.shapes import Batch, Field, PerPicture
from subjectgen.toybox.world import COLOURS, View

PLATE = 0.26
"""Half of the badge plate's side, in toy units."""
PLATE_DEPTH, PLATE_ROUNDING, PLATE_RAISED = 0.13, 0.03, 0.045
CELL = 0.146
"""Side of one cell; nine of them leave a white margin on the plate."""
PLATE_HEIGHT = -0.17
NOSE_HEIGHT, NOSE_RADIUS = 0.31, 0.085
EYE_RADIUS = 0.05
SCARF_HEIGHT, SCARF_RADIUS = 0.17, 0.068
TINT_AXES = ((0.03, 0.02, -0.09), (0.05, -0.04, 0.02))
"""Red, green, blue of one unit of each tint: less blue, more red. So small that an orange never looks like a yellow."""

Mask = Bool[Tensor, "pictures pixels"]


@dataclass(frozen=True, kw_only=True)
class DetailedBatch(Batch):
    """Toys, views and details as numbers, one row per picture."""

    badge: Int[Tensor, "pictures 1"]
    code: Int[Tensor, "pictures 1"]

    @classmethod
    def of_detailed(
        cls, toys: Sequence[DetailedToy], views: Sequence[View], device: torch.device | str = "cpu"
    ) -> DetailedBatch:
        """Encode toys with their views."""
        plain = Batch.of(list(toys), list(views), device)
        values = {field.name: getattr(plain, field.name) for field in fields(Batch)}
        values["colours"] = torch.tensor([colours(toy) for toy in toys], dtype=torch.float32, device=device)
        badge = torch.tensor([toy.details.badge for toy in toys], device=device)[:, None]
        code = torch.tensor([toy.details.code for toy in toys], device=device)[:, None]
        return cls(**values, badge=badge, code=code)


def colours(toy: DetailedToy) -> list[list[float]]:
    """Body, pattern and part colour, RGB; a little paler than the words' colours, which leaves room for the tint."""
    names = (toy.colour, toy.second_colour or toy.colour, toy.part_colour or toy.colour)
    return [[_channel(toy, COLOURS[name][channel], channel) for channel in range(3)] for name in names]


def _channel(toy: DetailedToy, value: float, channel: int) -> float:
    tint = sum(axis[channel] * amount for axis, amount in zip(TINT_AXES, toy.details.tint, strict=True))
    return min(1.0, max(0.0, (0.06 + 0.84 * value) * (1.0 + 0.10 * toy.shade) + tint))


def surfaces(batch: Batch, x: Field, y: Field, z: Field) -> tuple[Field, Field, Field, Field, Field]:
    """Distances to body, part, nose, accessory and badge plate."""
    solid = shapes.body(batch, x, y, z)
    # The ellipsoid of the wings is told too far off along its rim, where rays would step through it.
    part = 0.8 * shapes.part(batch, x, y, z)
    return solid, part, nose(batch, x, y, z), accessory(batch, x, y, z, solid), plate(batch, x, y, z)


def distance(batch: Batch, x: Field, y: Field, z: Field) -> Field:
    """Distance to the nearest surface of the whole toy."""
    first, second, third, fourth, fifth = surfaces(batch, x, y, z)
    nearest = torch.minimum(torch.minimum(first, second), torch.minimum(third, fourth))
    return torch.minimum(nearest, fifth)


def front(batch: Batch, y: PerPicture) -> PerPicture:
    """How far in front of the axis the body's surface is, at a height."""
    w, h = batch.width, batch.height
    ball = 0.64 * w * (1 - (y / (0.64 * h)) ** 2).clamp(min=0.04).sqrt()
    return _by_shape(batch, (ball, 0.46 * w + 0.06, 0.52 * w, (0.65 * h - y) * 0.74 * w / (1.2 * h)))


def nose(batch: Batch, x: Field, y: Field, z: Field) -> Field:
    """A dark nose, above badge and scarf."""
    height = NOSE_HEIGHT * batch.height
    return (x**2 + (y - height) ** 2 + (z - front(batch, height)) ** 2 + 1e-9).sqrt() - NOSE_RADIUS


def eyes(batch: Batch, x: Field, y: Field, z: Field) -> tuple[Mask, Mask]:
    """Where the body carries dark eyes, and the glints in them."""
    apart = _by_shape(batch, tuple(torch.full_like(batch.width, value) for value in (0.19, 0.19, 0.18, 0.125)))
    up = y - (NOSE_HEIGHT + 0.06) * batch.height
    across = x.abs() - apart
    eye = (across**2 + up**2 < EYE_RADIUS**2) & (z > 0)
    glint = ((x - torch.sign(x) * apart + 0.018) ** 2 + (up - 0.02) ** 2 < 0.018**2) & (z > 0)
    return eye, glint


def accessory(batch: Batch, x: Field, y: Field, z: Field, solid: Field) -> Field:
    """A top hat, or a scarf that lies around the body between nose and badge; ``solid`` is the body's distance."""
    up = y - shapes.top(batch)
    radial = (x**2 + z**2 + 1e-9).sqrt()
    crown = torch.maximum(radial - 0.24, (up - 0.28).abs() - 0.24)
    brim = torch.maximum(radial - 0.40, (up - 0.04).abs() - 0.045)
    scarf = (solid**2 + (y - SCARF_HEIGHT) ** 2 + 1e-9).sqrt() - SCARF_RADIUS
    nothing = torch.full_like(x, 10.0)
    return shapes.select(batch.accessory, (nothing, torch.minimum(crown, brim), scarf))


def on_plate(batch: Batch, x: Field, y: Field, z: Field) -> tuple[Field, Field, Field]:
    """Coordinates on the badge plate: across, up, and outward from its face."""
    height, reach, sine, cosine = _plate_pose(batch)
    up, out = y - height, z - reach
    return x, up * cosine - out * sine, up * sine + out * cosine


def off_plate(batch: Batch, across: PerPicture, up: PerPicture) -> tuple[PerPicture, PerPicture, PerPicture]:
    """The inverse of :func:`on_plate` for points of the plate's face."""
    height, reach, sine, cosine = _plate_pose(batch)
    return across, height + up * cosine, reach - up * sine


def _plate_pose(batch: Batch) -> tuple[PerPicture, PerPicture, PerPicture, PerPicture]:
    """Height and reach of the middle of the face, sine and cosine of its tilt upward (that of the cone's side)."""
    w, h = batch.width, batch.height
    height = torch.full_like(h, PLATE_HEIGHT)
    flat = torch.zeros_like(w)
    tilt = _by_shape(batch, (flat, flat, flat, torch.atan2(0.74 * w, 1.2 * h)))
    reach = front(batch, height)
    # The ball bulges in front of the middle of its plate, so the plate stands off as far as the bulge.
    reach = torch.where(batch.shape == 0, 0.64 * w, reach)
    return height + tilt.sin() * PLATE_RAISED, reach + tilt.cos() * PLATE_RAISED, tilt.sin(), tilt.cos()


def plate(batch: Batch, x: Field, y: Field, z: Field) -> Field:
    """A flat plate with round edges on the chest: flat, so that no turn hides a cell."""
    across, up, out = on_plate(batch, x, y, z)
    inner = PLATE - PLATE_ROUNDING
    qx, qy, qz = across.abs() - inner, up.abs() - inner, (out + PLATE_DEPTH).abs() - (PLATE_DEPTH - PLATE_ROUNDING)
    outside = (qx.clamp(min=0) ** 2 + qy.clamp(min=0) ** 2 + qz.clamp(min=0) ** 2 + 1e-9).sqrt()
    return outside + torch.maximum(qx, torch.maximum(qy, qz)).clamp(max=0) - PLATE_ROUNDING


def ink(batch: DetailedBatch, x: Field, y: Field, z: Field) -> Mask:
    """Where the plate's face carries a set cell; cell 0 is the top left one, as the camera sees it."""
    across, up, out = on_plate(batch, x, y, z)
    column, row = (across / CELL + 1.5).floor(), (1.5 - up / CELL).floor()
    inside = (column >= 0) & (column < 3) & (row >= 0) & (row < 3) & (out > -0.02)
    return inside & bit(batch.badge, column.clamp(0, 2) + 3 * row.clamp(0, 2))


def bit(word: Int[Tensor, "pictures 1"], index: Field) -> Mask:
    """Whether a bit of each picture's word is set."""
    return (word >> index.long()) & 1 == 1


def painted(batch: DetailedBatch, x: Field, y: Field, z: Field) -> Mask:
    """Where the body carries the pattern's colour: the rings, bars or dots whose bit is set."""
    h = y / batch.height
    ring = ((h + 0.51) / 0.17).floor()
    striped = bit(batch.code, ring.clamp(0, CODE_BITS - 1)) & (ring >= 0) & (ring < CODE_BITS)
    # Twelve sectors show every bit twice, so that half of the body tells all.
    turn = (torch.atan2(x, z) / (2 * math.pi) + 0.5) * 2 * CODE_BITS
    sector = turn.floor().clamp(0, 2 * CODE_BITS - 1)
    barred = bit(batch.code, sector % CODE_BITS)
    height = (h + 0.56) / 0.28
    row = height.floor()
    round_ = (turn % 1 - 0.5) ** 2 + (height % 1 - 0.5) ** 2 < 0.17
    dotted = bit(batch.code, (sector + 2 * row.clamp(min=0)) % CODE_BITS) & round_ & (row >= 0) & (h < 0.545)
    plain = torch.zeros_like(striped)
    return shapes.select(batch.pattern, (plain, striped, barred, dotted))


def _by_shape(batch: Batch, values: tuple[PerPicture, ...]) -> PerPicture:
    return shapes.select(batch.shape, values)
