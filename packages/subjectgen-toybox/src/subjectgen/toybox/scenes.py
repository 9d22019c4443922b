"""Backgrounds: a sky, a ground, and a few small things that make each scene itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.toybox.shapes import Batch, Field, PerPicture, PixelGrid, pixel_grid
from subjectgen.toybox.world import SCENES

Colour = tuple[float, float, float]

# scene: (sky above, sky at the horizon, ground at the horizon, ground in front)
PALETTE: dict[str, tuple[Colour, Colour, Colour, Colour]] = {
    "snow": ((0.62, 0.74, 0.86), (0.80, 0.87, 0.93), (0.90, 0.93, 0.97), (0.98, 0.98, 1.00)),
    "beach": ((0.42, 0.74, 0.98), (0.72, 0.90, 1.00), (0.93, 0.82, 0.55), (0.97, 0.88, 0.66)),
    "meadow": ((0.32, 0.60, 0.95), (0.66, 0.84, 1.00), (0.24, 0.56, 0.16), (0.36, 0.72, 0.22)),
    "night": ((0.02, 0.03, 0.14), (0.08, 0.10, 0.30), (0.10, 0.12, 0.20), (0.06, 0.08, 0.14)),
    "sunset": ((0.45, 0.18, 0.42), (1.00, 0.55, 0.18), (0.36, 0.18, 0.14), (0.22, 0.10, 0.10)),
    "room": ((0.80, 0.62, 0.56), (0.88, 0.72, 0.66), (0.50, 0.30, 0.16), (0.60, 0.38, 0.20)),
}


def background(batch: Batch, size: int) -> Float[Tensor, "pictures 3 pixels"]:
    """The scene behind each toy."""
    u, v = pixel_grid(size, batch.width.device)
    palette = torch.tensor([PALETTE[name] for name in SCENES], device=u.device)[batch.scene[:, 0]]
    horizon = _noise(batch.seed, 1) * 0.16 - 0.12
    sky = ((v - horizon) / (1 - horizon)).clamp(0, 1)[:, None]
    ground = ((horizon - v) / (1 + horizon)).clamp(0, 1)[:, None]
    above = palette[:, 1, :, None] + (palette[:, 0] - palette[:, 1])[:, :, None] * sky
    below = palette[:, 2, :, None] + (palette[:, 3] - palette[:, 2])[:, :, None] * ground
    is_sky = (v > horizon).float()
    colour = torch.where(is_sky[:, None] > 0, above, below)
    colour = _details(batch, colour, u, v, horizon, is_sky)
    return colour * (0.94 + 0.12 * _noise(batch.seed, 2))[:, None]


def _details(
    batch: Batch,
    colour: Float[Tensor, "pictures 3 pixels"],
    u: PixelGrid,
    v: PixelGrid,
    horizon: PerPicture,
    is_sky: Field,
) -> Float[Tensor, "pictures 3 pixels"]:
    """Flakes in the snow, the sea at the beach, stars at night, the sun at sunset, planks in the room."""
    scene = batch.scene
    number = {name: index for index, name in enumerate(SCENES)}
    speckle = _speckle(batch, u, v)
    flakes = (scene == number["snow"]).float() * is_sky * speckle
    stars = (scene == number["night"]).float() * is_sky * speckle
    colour = _blend(colour, (1.0, 1.0, 1.0), torch.maximum(flakes, 0.8 * stars))
    sea = (scene == number["beach"]) & (v <= horizon) & (v > horizon - 0.22)
    colour = _blend(colour, (0.05, 0.42, 0.72), sea.float())
    tufts = (scene == number["meadow"]).float() * (1 - is_sky) * speckle
    colour = _blend(colour, (0.98, 0.85, 0.20), 0.8 * tufts)
    sun_x = _noise(batch.seed, 3) * 1.2 - 0.6
    sun = torch.sigmoid((0.17 - ((u - sun_x) ** 2 + (v - horizon - 0.28) ** 2).sqrt()) * 40)
    colour = _blend(colour, (1.0, 0.93, 0.45), (scene == number["sunset"]).float() * sun)
    planks = (scene == number["room"]).float() * (1 - is_sky) * (torch.sin(u * 16) > 0.86).float()
    return _blend(colour, (0.32, 0.18, 0.10), planks)


def _blend(colour: Float[Tensor, "pictures 3 pixels"], paint: Colour, amount: Field) -> Tensor:
    target = torch.tensor(paint, device=colour.device)[None, :, None]
    return colour + (target - colour) * amount[:, None]


def _speckle(batch: Batch, u: PixelGrid, v: PixelGrid) -> Field:
    """Eight 3-pixel points, placed by the seed."""
    points = torch.zeros_like(u).expand(batch.seed.shape[0], -1)
    for index in range(8):
        x = _noise(batch.seed, 10 + index) * 2 - 1
        y = _noise(batch.seed, 40 + index) * 2 - 1
        near = ((u - x) ** 2 + (v - y) ** 2) < 0.0016
        points = torch.maximum(points, near.float())
    return points


def _noise(seed: Tensor, salt: int) -> PerPicture:
    """A number in [0, 1) from a seed and a salt, the same on every device (an integer hash)."""
    mixed = (seed.long() + salt * 2654435769) & 0xFFFFFFFF
    for _ in range(2):
        mixed = ((mixed >> 16) ^ mixed) * 0x45D9F3B & 0xFFFFFFFF
    return ((mixed >> 16) ^ mixed).float() / 2.0**32
