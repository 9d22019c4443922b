"""The toy world in words: what a toy is, from where it is seen, and which toys no training may see.

A toy's identity is its shape, pattern, part and colours, plus proportions that no word describes.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

SHAPES = ("ball", "box", "barrel", "cone")
PATTERNS = ("plain", "striped", "barred", "dotted")
PARTS = ("nothing", "ears", "horn", "handle", "wings")
ACCESSORIES = ("nothing", "hat", "scarf")
SCENES = ("snow", "beach", "meadow", "night", "sunset", "room")
DIRECTIONS = ("left", "front", "right")

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.84, 0.10, 0.12),
    "orange": (0.98, 0.50, 0.05),
    "yellow": (0.98, 0.88, 0.12),
    "green": (0.10, 0.60, 0.18),
    "blue": (0.10, 0.28, 0.86),
    "purple": (0.50, 0.14, 0.70),
    "pink": (0.98, 0.50, 0.72),
    "white": (0.95, 0.95, 0.95),
}

FRONT_LIMIT = 25.0
"""Degrees of azimuth within which a toy counts as facing the front."""
MAX_AZIMUTH = 100.0
POLAR_RANGE = (5.0, 35.0)
FAMILY = 4
"""Held-out toys that share all colours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """One identity."""

    shape: str
    colour: str
    second_colour: str | None
    """Colour of the pattern; ``None`` when plain."""
    pattern: str
    part: str
    part_colour: str | None
    """``None`` when the toy has no part."""
    width: float = 1.0
    """Proportion of the body across, 0.85 to 1.15."""
    height: float = 1.0
    """Proportion of the body upward, 0.85 to 1.15."""
    shade: float = 0.0
    """Brightness of the body colours, -1 to 1."""

    @property
    def words(self) -> tuple[str, str, str, str, str, str]:
        """The part of the identity that words describe."""
        return (
            self.shape,
            self.colour,
            self.second_colour or "",
            self.pattern,
            self.part,
            self.part_colour or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How one picture shows a toy."""

    scene: str
    azimuth: float = 0.0
    """Degrees; 0 faces the camera, positive turns the face to the right of the picture."""
    polar: float = 20.0
    """Degrees that the camera stands above the toy."""
    accessory: str = "nothing"
    offset: tuple[float, float] = (0.0, 0.0)
    """Shift in the picture, in fractions of the toy's size."""
    seed: int = 0
    """Small things of the scene: horizon, flakes, stars."""

    @property
    def direction(self) -> str:
        """``left``, ``front`` or ``right``, as a person looking at the picture says."""
        if abs(self.azimuth) <= FRONT_LIMIT:
            return "front"
        return "right" if self.azimuth > 0 else "left"


def is_held_out(toy: Toy) -> bool:
    """Whether no training may see this identity: one in eight, by a hash of its words."""
    digest = hashlib.sha256("/".join(toy.words).encode()).digest()
    return digest[0] % 8 == 0


def is_held_out_combination(toy: Toy, scene: str) -> bool:
    """Whether no training may see this kind of toy in this scene: one (shape, pattern, scene) in twelve."""
    digest = hashlib.sha256(f"{toy.shape}/{toy.pattern}/{scene}".encode()).digest()
    return digest[1] % 12 == 0


class Draw:
    """Random choices from one torch generator, so that a seed fixes a world on every machine."""

    def __init__(self, seed: int) -> None:
        import torch  # not above: who only wants the world's words need not wait for it

        self.generator = torch.Generator().manual_seed(seed)
        self._rand, self._randint = torch.rand, torch.randint

    def integer(self, below: int) -> int:
        """Uniform in 0..below-1."""
        return int(self._randint(below, (1,), generator=self.generator))

    def uniform(self, low: float, high: float) -> float:
        """Uniform real number."""
        return low + (high - low) * float(self._rand(1, generator=self.generator))

    def choice(self, options: tuple[str, ...] | list[str]) -> str:
        """One of the options."""
        return options[self.integer(len(options))]


def random_toy(draw: Draw, *, held_out: bool | None = False) -> Toy:
    """Draw a toy. ``held_out``: only such identities, only others, or (``None``) any."""
    while True:
        pattern, part = draw.choice(PATTERNS), draw.choice(PARTS)
        names = list(COLOURS)
        colour = draw.choice(names)
        second = draw.choice([name for name in names if name != colour])
        toy = Toy(
            shape=draw.choice(SHAPES),
            colour=colour,
            second_colour=None if pattern == "plain" else second,
            pattern=pattern,
            part=part,
            part_colour=None if part == "nothing" else draw.choice(names),
            width=draw.uniform(0.85, 1.15),
            height=draw.uniform(0.85, 1.15),
            shade=draw.uniform(-1.0, 1.0),
        )
        if held_out is None or is_held_out(toy) == held_out:
            return toy


def random_view(draw: Draw, *, scene: str | None = None, accessories: bool = True) -> View:
    """Draw a view; seven in ten wear nothing."""
    accessory = "nothing"
    if accessories and draw.uniform(0.0, 1.0) > 0.7:
        accessory = draw.choice(ACCESSORIES[1:])
    return View(
        scene=scene or draw.choice(SCENES),
        azimuth=draw.uniform(-MAX_AZIMUTH, MAX_AZIMUTH),
        polar=draw.uniform(*POLAR_RANGE),
        accessory=accessory,
        offset=(draw.uniform(-0.12, 0.12), draw.uniform(-0.08, 0.08)),
        seed=draw.integer(2**31 - 1),
    )


def training_view(draw: Draw, toy: Toy, *, accessories: bool = True) -> View:
    """Draw a view whose scene this kind of toy may have in training."""
    while True:
        view = random_view(draw, accessories=accessories)
        if not is_held_out_combination(toy, view.scene):
            return view


def held_out_toys(count: int, *, seed: int = 0) -> list[Toy]:
    """Held-out identities in families of four that share all colours.

    Within a family any two differ in at least two of shape, pattern and part: colour alone cannot tell them apart.
    """
    draw, toys = Draw(seed), list[Toy]()
    while len(toys) < count:
        family: list[Toy] = []
        first = random_toy(draw, held_out=True)
        if first.second_colour is None or first.part_colour is None:
            continue
        for _ in range(4000):
            other = random_toy(draw, held_out=None)
            if other.second_colour is None or other.part_colour is None:
                continue
            candidate = recoloured(other, first)
            if is_held_out(candidate) and all(_apart(candidate, toy) for toy in family):
                family.append(candidate)
            if len(family) == FAMILY:
                toys += family
                break
    return toys[:count]


def recoloured(toy: Toy, like: Toy) -> Toy:
    """The toy in another's colours, as far as both have a pattern and a part."""
    both_patterned = toy.second_colour is not None and like.second_colour is not None
    both_with_part = toy.part_colour is not None and like.part_colour is not None
    second = like.second_colour if both_patterned else toy.second_colour
    if second == like.colour:
        second = toy.colour if toy.colour != like.colour else next(name for name in COLOURS if name != like.colour)
    return replace(
        toy,
        colour=like.colour,
        second_colour=second,
        part_colour=like.part_colour if both_with_part else toy.part_colour,
        shade=like.shade,
    )


def _apart(one: Toy, other: Toy) -> bool:
    return sum((one.shape != other.shape, one.pattern != other.pattern, one.part != other.part)) >= 2


def angular_difference(one: float, other: float) -> float:
    """Smallest difference of two angles in degrees, 0 to 180."""
    return abs(math.remainder(one - other, 360.0))
