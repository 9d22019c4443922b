"""Signed distances of the toys' bodies, parts, noses and accessories, batched over pictures.

All coordinates are (pictures, pixels) in the toy's own frame: +y up, +z where the face is.
Distances are lower bounds near the surface, which is what sphere tracing needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subjectgen.toybox.world import ACCESSORIES, COLOURS, PARTS, PATTERNS, SCENES, SHAPES, Toy, View

Field = Float[Tensor, "pictures pixels"]
PerPicture = Float[Tensor, "pictures 1"]
PixelGrid = Float[Tensor, "1 pixels"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Toys and views as numbers, one row per picture."""

    shape: Int[Tensor, "pictures 1"]
    pattern: Int[Tensor, "pictures 1"]
    part: Int[Tensor, "pictures 1"]
    accessory: Int[Tensor, "pictures 1"]
    scene: Int[Tensor, "pictures 1"]
    colours: Float[Tensor, "pictures 3 3"]
    """Body, pattern and part colour."""
    width: Float[Tensor, "pictures 1"]
    height: Float[Tensor, "pictures 1"]
    azimuth: Float[Tensor, "pictures 1"]
    """Radians."""
    polar: Float[Tensor, "pictures 1"]
    offset: Float[Tensor, "pictures 2"]
    seed: Int[Tensor, "pictures 1"]

    @classmethod
    def of(cls, toys: list[Toy], views: list[View], device: torch.device | str = "cpu") -> Batch:
        """Encode toys with their views."""

        def index(names: tuple[str, ...], chosen: list[str]) -> Tensor:
            return torch.tensor([names.index(name) for name in chosen], device=device)[:, None]

        def number(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        colours = torch.tensor([_colours(toy) for toy in toys], dtype=torch.float32, device=device)
        return cls(
            shape=index(SHAPES, [toy.shape for toy in toys]),
            pattern=index(PATTERNS, [toy.pattern for toy in toys]),
            part=index(PARTS, [toy.part for toy in toys]),
            accessory=index(ACCESSORIES, [view.accessory for view in views]),
            scene=index(SCENES, [view.scene for view in views]),
            colours=colours,
            width=number([toy.width for toy in toys]),
            height=number([toy.height for toy in toys]),
            azimuth=number([view.azimuth for view in views]).deg2rad(),
            polar=number([view.polar for view in views]).deg2rad(),
            offset=torch.tensor([view.offset for view in views], dtype=torch.float32, device=device),
            seed=torch.tensor([view.seed for view in views], device=device)[:, None],
        )


def pixel_grid(size: int, device: torch.device) -> tuple[PixelGrid, PixelGrid]:
    """Pixel centres as (1, pixels): u to the right, v upward, both in [-1, 1]."""
    line = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(-line, line, indexing="ij")
    return u.reshape(1, -1), v.reshape(1, -1)


def _colours(toy: Toy) -> list[list[float]]:
    factor = 1.0 + 0.14 * toy.shade
    names = (toy.colour, toy.second_colour or toy.colour, toy.part_colour or toy.colour)
    return [[min(1.0, channel * factor) for channel in COLOURS[name]] for name in names]


def ellipsoid(x: Field, y: Field, z: Field, a: PerPicture, b: PerPicture, c: PerPicture) -> Field:
    """Ellipsoid of radii a, b, c (first-order distance)."""
    k0 = ((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 + 1e-9).sqrt()
    k1 = ((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2 + 1e-9).sqrt()
    return k0 * (k0 - 1) / k1


def body(batch: Batch, x: Field, y: Field, z: Field) -> Field:
    """Ball, box, barrel or cone, in its own proportions."""
    w, h = batch.width, batch.height
    radial = (x**2 + z**2 + 1e-9).sqrt()
    ball = ellipsoid(x, y, z, 0.64 * w, 0.64 * h, 0.64 * w)
    qx, qy, qz = x.abs() - 0.46 * w, y.abs() - 0.50 * h, z.abs() - 0.46 * w
    outside = (qx.clamp(min=0) ** 2 + qy.clamp(min=0) ** 2 + qz.clamp(min=0) ** 2 + 1e-9).sqrt()
    box = outside + torch.maximum(qx, torch.maximum(qy, qz)).clamp(max=0) - 0.06
    barrel = torch.maximum(radial - 0.52 * w, y.abs() - 0.60 * h)
    slope_x, slope_y = 1.2 * h, 0.74 * w
    norm = (slope_x**2 + slope_y**2).sqrt()
    cone = torch.maximum((radial * slope_x + (y - 0.65 * h) * slope_y) / norm, -y - 0.55 * h)
    return select(batch.shape, (ball, box, barrel, cone))


def top(batch: Batch) -> Float[Tensor, "pictures 1"]:
    """Height at which parts and hats sit."""
    tops = torch.tensor([0.60, 0.54, 0.58, 0.42], device=batch.height.device)
    return tops[batch.shape] * batch.height


def part(batch: Batch, x: Field, y: Field, z: Field) -> Field:
    """Ears, horn, handle or wings; far away for toys without."""
    up = y - top(batch)
    ears = ((x.abs() - 0.36) ** 2 + (up - 0.08) ** 2 + (z / 0.8) ** 2 + 1e-9).sqrt() - 0.25
    radial = (x**2 + z**2 + 1e-9).sqrt()
    horn = torch.maximum((radial * 0.62 + (up - 0.62) * 0.20) / 0.6515, -up - 0.2) * 0.9
    ring = ((x**2 + up**2 + 1e-9).sqrt() - 0.38) ** 2
    handle = (ring + z**2 + 1e-9).sqrt() - 0.095
    wings = ellipsoid(x.abs() - 0.72 * batch.width, y - 0.05, z, *_radii(x, 0.34, 0.22, 0.16))
    nothing = torch.full_like(x, 10.0)
    return select(batch.part, (nothing, ears, horn, handle, wings))


def _radii(like: Field, *radii: float) -> tuple[PerPicture, ...]:
    return tuple(torch.full_like(like[:, :1], radius) for radius in radii)


def nose(batch: Batch, x: Field, y: Field, z: Field) -> Field:
    """A dark nose on the side of the face."""
    fronts = torch.tensor([0.64, 0.52, 0.52, 0.42], device=batch.width.device)
    front = fronts[batch.shape] * batch.width
    return (x**2 + (y + 0.02) ** 2 + (z - front) ** 2 + 1e-9).sqrt() - 0.15


def accessory(batch: Batch, x: Field, y: Field, z: Field) -> Field:
    """A top hat or a scarf; far away for toys that wear nothing."""
    up = y - top(batch)
    radial = (x**2 + z**2 + 1e-9).sqrt()
    crown = torch.maximum(radial - 0.24, (up - 0.28).abs() - 0.24)
    brim = torch.maximum(radial - 0.42, (up - 0.04).abs() - 0.05)
    girth = torch.tensor([0.60, 0.60, 0.54, 0.62], device=batch.width.device)[batch.shape] * batch.width
    scarf = ((radial - girth) ** 2 + ((y + 0.26) / 1.3) ** 2 + 1e-9).sqrt() - 0.13
    nothing = torch.full_like(x, 10.0)
    return select(batch.accessory, (nothing, torch.minimum(crown, brim), scarf))


def distance(batch: Batch, x: Field, y: Field, z: Field) -> Field:
    """Distance to the nearest surface of the whole toy."""
    solid = torch.minimum(body(batch, x, y, z), part(batch, x, y, z))
    return torch.minimum(solid, torch.minimum(nose(batch, x, y, z), accessory(batch, x, y, z)))


def painted(batch: Batch, x: Field, y: Field, z: Field) -> Field:
    """1 where the body carries the pattern's colour, 0 elsewhere; the pattern is fixed to the toy."""
    angle = torch.atan2(x, z)
    striped = (torch.sin(y * 9.5 + 0.6) > 0.0).float()
    barred = (torch.cos(angle * 5.0) > 0.1).float()
    dotted = (torch.cos(angle * 5.0) * torch.cos(y * 8.5) > 0.30).float()
    return select(batch.pattern, (torch.zeros_like(x), striped, barred, dotted))


def select(index: Int[Tensor, "pictures 1"], options: tuple[Tensor, ...]) -> Tensor:
    """For each picture one of several fields (pictures, pixels or 1), by number."""
    chosen = options[0]
    for number, option in enumerate(options[1:], start=1):
        chosen = torch.where(index == number, option, chosen)
    return chosen
