"""Pictures of detailed toys: sphere tracing at twice the size, averaged down, on any device, plain or compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from subjectgen.toybox import scenes
from subjectgen.toybox.detailed import shapes
from subjectgen.toybox.detailed.camera import DROP, HALF_VIEW, START, Point, along_rays, to_toy
from subjectgen.toybox.detailed.shapes import DetailedBatch
from subjectgen.toybox.detailed.world import DetailedToy
from subjectgen.toybox.shapes import Field, pixel_grid
from subjectgen.toybox.world import View

SIZE = 96
"""Pixels of a picture's side."""
FINER = 2
"""Pictures are traced this many times finer and averaged down."""
BLOCK = 4
"""Traced pixels of a side that share one coarse ray."""
COARSE_STEPS, FINE_STEPS = 14, 16
HIT, LEAST_STEP = 0.012, 0.05
NORMAL_STEP = 0.012
LIGHT = (-0.446, 0.743, 0.496)
HALFWAY = (-0.258, 0.430, 0.865)
"""Between the light and the camera, for the gloss."""
DARK, PAPER, INK, WHITE = (0.10, 0.08, 0.10), (0.97, 0.96, 0.93), (0.09, 0.10, 0.16), (1.0, 1.0, 1.0)
ACCESSORY_COLOURS = ((0.0, 0.0, 0.0), (0.14, 0.12, 0.18), (0.10, 0.72, 0.78))


def render(
    toys: Sequence[DetailedToy], views: Sequence[View], *, size: int = SIZE, device: torch.device | str = "cpu"
) -> Float[Tensor, "pictures 3 size size"]:
    """Render one picture per (toy, view); RGB in [0, 1]."""
    return Renderer(device=device)(toys, views, size=size)[0]


class Renderer:
    """Renders toys a chunk at a time; ``compiled`` is several times faster after a minute of warm-up."""

    def __init__(self, *, compiled: bool = False, device: torch.device | str = "cpu", chunk: int = 16) -> None:
        self.device, self.chunk = device, chunk
        self._advance: Callable[..., Field] = torch.compile(advance, dynamic=False) if compiled else advance
        self._shade: Callable[..., tuple[Tensor, Tensor]] = torch.compile(shade, dynamic=False) if compiled else shade

    @torch.no_grad()
    def __call__(
        self, toys: Sequence[DetailedToy], views: Sequence[View], *, size: int = SIZE
    ) -> tuple[Float[Tensor, "pictures 3 size size"], Bool[Tensor, "pictures 1 size size"]]:
        """Pictures, and where in them the toys are: body, part, nose, accessory and badge, no shadow."""
        drawn = []
        for start in range(0, len(toys), self.chunk):
            # A last chunk is filled up with its last picture, so that compiled code meets one shape only.
            chosen = [min(number, len(toys) - 1) for number in range(start, start + min(self.chunk, len(toys)))]
            batch = DetailedBatch.of_detailed([toys[i] for i in chosen], [views[i] for i in chosen], self.device)
            drawn.append(self._draw(batch, size))
        pictures, inside = zip(*drawn, strict=True)
        return torch.cat(pictures)[: len(toys)], torch.cat(inside)[: len(toys)]

    def _draw(self, batch: DetailedBatch, size: int) -> tuple[Tensor, Tensor]:
        fine = size * FINER
        spacing = 2 * HALF_VIEW / fine
        travelled = torch.zeros(len(batch.shape), (fine // BLOCK) ** 2, device=self.device)
        # Around a coarse ray no pixel of its block is farther off than half of the block's diagonal.
        for _ in range(COARSE_STEPS):
            travelled = self._advance(batch, travelled, fine // BLOCK, spacing * BLOCK / 2**0.5)
        blocks = travelled.reshape(-1, 1, fine // BLOCK, fine // BLOCK)
        travelled = functional.interpolate(blocks, scale_factor=BLOCK, mode="nearest").flatten(1)
        for _ in range(FINE_STEPS):
            travelled = self._advance(batch, travelled, fine, 0.0)
        picture, inside = self._shade(batch, travelled, fine)
        return functional.avg_pool2d(picture, FINER), functional.avg_pool2d(inside, FINER) >= 0.5


def advance(batch: DetailedBatch, travelled: Field, size: int, slack: float) -> Field:
    """One step of every pixel's ray toward the toy, to ``slack`` before it (sphere tracing, Hart 1996)."""
    near = shapes.distance(batch, *along_rays(batch, size, travelled)) - slack
    # A ray that grazes an edge would creep along it and never reach what is behind. A step too far is taken back.
    step = torch.where(near < HIT, near, near.clamp(min=LEAST_STEP))
    return (travelled + step).clamp(0.0, 2 * START)


def shade(
    batch: DetailedBatch, travelled: Field, size: int
) -> tuple[Float[Tensor, "pictures 3 size size"], Float[Tensor, "pictures 1 size size"]]:
    """Colour and light where the rays ended, before the scene; and 1 where they met the toy."""
    position = along_rays(batch, size, travelled)
    distances = torch.stack(shapes.surfaces(batch, *position))
    nearest = distances.min(0)
    inside = (nearest.values < HIT)[:, None]
    colour = _paint(batch, position, nearest.indices)
    light, gloss = _light(batch, position)
    on_badge = nearest.indices == 4
    # The badge has no gloss and little shade, so that it reads alike from every side.
    light = torch.where(on_badge, 0.45 + 0.55 * light, light)
    colour = colour * light[:, None] + torch.where(on_badge, 0.0, 0.22 * gloss)[:, None]
    behind = scenes.background(batch, size) * (1 - 0.40 * _shadow(batch, size))[:, None]
    picture = torch.where(inside, colour, behind).clamp(0, 1)
    return picture.reshape(-1, 3, size, size), inside.float().reshape(-1, 1, size, size)


def _paint(batch: DetailedBatch, position: Point, surface: Tensor) -> Float[Tensor, "pictures 3 pixels"]:
    """The colour of each surface, by its number in :func:`subjectgen.toybox.detailed.shapes.surfaces`."""
    first, second, third = (batch.colours[:, i, :, None] for i in range(3))
    dark, paper, ink, white = (
        torch.tensor(paint, device=surface.device)[None, :, None] for paint in (DARK, PAPER, INK, WHITE)
    )
    worn = torch.tensor(ACCESSORY_COLOURS, device=surface.device)[batch.accessory[:, 0]][:, :, None]
    eye, glint = shapes.eyes(batch, *position)
    body = torch.where(shapes.painted(batch, *position)[:, None], second, first)
    body = torch.where(eye[:, None], torch.where(glint[:, None], white, dark), body)
    plate = torch.where(shapes.ink(batch, *position)[:, None], ink, paper)
    number = surface[:, None]
    colour = torch.where(number == 0, body, third)
    colour = torch.where(number == 2, dark, colour)
    colour = torch.where(number == 3, worn, colour)
    return torch.where(number == 4, plate, colour)


def _light(batch: DetailedBatch, position: Point) -> tuple[Field, Field]:
    """Light of the sky and of a lamp that stays with the camera, and gloss (Blinn's halfway vector)."""
    x, y, z = (torch.zeros_like(position[0]) for _ in range(3))
    # Four corners of a tetrahedron give the gradient with four distances instead of six.
    for sx, sy, sz in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        corner = (p + s * NORMAL_STEP for p, s in zip(position, (sx, sy, sz), strict=True))
        near = shapes.distance(batch, *corner)
        x, y, z = x + sx * near, y + sy * near, z + sz * near
    norm = (x**2 + y**2 + z**2 + 1e-12).sqrt()
    one = torch.ones_like(batch.width)
    facing, gloss = (
        sum(n * component for n, component in zip((x, y, z), to_toy(batch, *(one * d for d in way)), strict=True))
        / norm
        for way in (LIGHT, HALFWAY)
    )
    return 0.42 + 0.10 * (y / norm) + 0.55 * facing.clamp(min=0), gloss.clamp(min=0) ** 32


def _shadow(batch: DetailedBatch, size: int) -> Field:
    """A soft dark ellipse where the toy stands."""
    u, v = pixel_grid(size, batch.width.device)
    x = (u * HALF_VIEW - batch.offset[:, :1]) / 0.85
    y = (v * HALF_VIEW - batch.offset[:, 1:] + DROP + 0.62) / 0.26
    return torch.exp(-(x**2 + y**2))
