"""Pictures of toys: sphere tracing of signed distances, on any device, a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subjectgen.toybox import scenes, shapes
from subjectgen.toybox.shapes import Batch, Field, pixel_grid
from subjectgen.toybox.world import Toy, View

HALF_VIEW = 1.12
"""Half of the picture's height, in toy units; the camera is orthographic."""
START, STEPS = 2.2, 18
HIT = 0.03
DARK = (0.10, 0.08, 0.10)
ACCESSORY_COLOURS = ((0.0, 0.0, 0.0), (0.12, 0.10, 0.14), (0.10, 0.72, 0.78))
LIGHT = (-0.45, 0.75, 0.50)

Rays = tuple[Field, Field, Field]


def render(
    toys: list[Toy], views: list[View], *, size: int = 64, device: torch.device | str = "cpu", chunk: int = 32
) -> Float[Tensor, "pictures 3 size size"]:
    """Render one picture per (toy, view); RGB in [0, 1]."""
    return render_with_masks(toys, views, size=size, device=device, chunk=chunk)[0]


def render_with_masks(
    toys: list[Toy], views: list[View], *, size: int = 64, device: torch.device | str = "cpu", chunk: int = 32
) -> tuple[Float[Tensor, "pictures 3 size size"], Bool[Tensor, "pictures 1 size size"]]:
    """Render one picture per (toy, view), and where in it the toy is: body, part, nose and accessory, no shadow."""
    drawn = []
    for start in range(0, len(toys), chunk):
        batch = Batch.of(toys[start : start + chunk], views[start : start + chunk], device)
        drawn.append(render_batch(batch, size=size))
    pictures, masks = zip(*drawn, strict=True)
    return torch.cat(pictures), torch.cat(masks)


def subject_masks(
    toys: list[Toy], views: list[View], *, size: int = 64, device: torch.device | str = "cpu", chunk: int = 32
) -> Bool[Tensor, "pictures 1 size size"]:
    """Where each toy is in its picture, without drawing the picture."""
    masks = []
    for start in range(0, len(toys), chunk):
        batch = Batch.of(toys[start : start + chunk], views[start : start + chunk], device)
        masks.append(_trace(batch, size, shapes.distance)[1].reshape(-1, 1, size, size))
    return torch.cat(masks)


@torch.no_grad()
def render_batch(
    batch: Batch, *, size: int = 64, distance: Callable[..., Field] = shapes.distance
) -> tuple[Float[Tensor, "pictures 3 size size"], Bool[Tensor, "pictures 1 size size"]]:
    """Trace, shade and compose a batch; pictures and subject masks. ``distance`` may be the same function, compiled."""
    position, inside = _trace(batch, size, distance)
    hit = inside.float()
    colour = _shade(batch, position, distance)
    background = scenes.background(batch, size)
    background = background * (1 - 0.35 * _shadow(batch, size))[:, None]
    picture = colour * hit[:, None] + background * (1 - hit[:, None])
    return picture.clamp(0, 1).reshape(-1, 3, size, size), inside.reshape(-1, 1, size, size)


def _trace(batch: Batch, size: int, distance: Callable[..., Field]) -> tuple[Rays, Bool[Tensor, "pictures pixels"]]:
    """Where each pixel's ray ends, and whether it meets the toy there."""
    origin, direction = _rays(batch, size)
    travelled = torch.zeros_like(origin[0])
    for _ in range(STEPS):
        near = distance(batch, *_along(origin, direction, travelled))
        travelled = (travelled + near).clamp(max=2 * START)
    position = _along(origin, direction, travelled)
    return position, distance(batch, *position) < HIT


def _to_toy(batch: Batch, x: Field, y: Field, z: Field) -> Rays:
    """From the camera's frame into the toy's: tilt by the polar angle, then turn by the azimuth."""
    cos_p, sin_p = batch.polar.cos(), batch.polar.sin()
    y, z = y * cos_p + z * sin_p, -y * sin_p + z * cos_p
    cos_a, sin_a = batch.azimuth.cos(), batch.azimuth.sin()
    return x * cos_a - z * sin_a, y, x * sin_a + z * cos_a


def _rays(batch: Batch, size: int) -> tuple[Rays, Rays]:
    u, v = pixel_grid(size, batch.width.device)
    x = u * HALF_VIEW - batch.offset[:, :1]
    y = v * HALF_VIEW - batch.offset[:, 1:] + 0.22
    zero = torch.zeros_like(x)
    origin = _to_toy(batch, x, y, zero + START)
    direction = _to_toy(batch, zero, zero, zero - 1)
    return origin, direction


def _along(origin: Rays, direction: Rays, travelled: Field) -> Rays:
    x, y, z = (start + step * travelled for start, step in zip(origin, direction, strict=True))
    return x, y, z


def _shade(batch: Batch, position: Rays, distance: Callable[..., Field]) -> Float[Tensor, "pictures 3 pixels"]:
    x, y, z = position
    parts = torch.stack(
        [surface(batch, x, y, z) for surface in (shapes.body, shapes.part, shapes.nose, shapes.accessory)]
    )
    nearest = parts.argmin(0)[:, None]
    paint = shapes.painted(batch, x, y, z)[:, None]
    first, second, third = (batch.colours[:, i, :, None] for i in range(3))
    dark = torch.tensor(DARK, device=x.device)[None, :, None]
    worn = torch.tensor(ACCESSORY_COLOURS, device=x.device)[batch.accessory[:, 0]][:, :, None]
    colour = torch.where(nearest == 0, first + (second - first) * paint, third.expand(-1, -1, x.shape[1]))
    colour = torch.where(nearest == 2, dark, colour)
    colour = torch.where(nearest == 3, worn, colour)
    return colour * _lambert(batch, position, distance)[:, None]


def _lambert(batch: Batch, position: Rays, distance: Callable[..., Field]) -> Field:
    """Diffuse light from a lamp that stays with the camera; normals by finite differences."""
    x, y, z = position
    e = 0.015
    gradient = (
        distance(batch, x + e, y, z) - distance(batch, x - e, y, z),
        distance(batch, x, y + e, z) - distance(batch, x, y - e, z),
        distance(batch, x, y, z + e) - distance(batch, x, y, z - e),
    )
    norm = (gradient[0] ** 2 + gradient[1] ** 2 + gradient[2] ** 2 + 1e-12).sqrt()
    one = torch.ones_like(batch.width)
    light = _to_toy(batch, one * LIGHT[0], one * LIGHT[1], one * LIGHT[2])
    facing = sum(g * component for g, component in zip(gradient, light, strict=True)) / norm
    return 0.50 + 0.55 * facing.clamp(min=0)


def _shadow(batch: Batch, size: int) -> Field:
    """A soft dark ellipse where the toy stands."""
    u, v = pixel_grid(size, batch.width.device)
    x = (u * HALF_VIEW - batch.offset[:, :1]) / 0.85
    y = (v * HALF_VIEW - batch.offset[:, 1:] + 0.84) / 0.26
    return torch.exp(-(x**2 + y**2))
