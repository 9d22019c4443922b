"""One small network that judges toy pictures: scene, shape, pattern, part, colours, angles, and an identity vector.

It is trained on rendered training toys only; its own accuracy on held-out renders stands beside its verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from subjectgen.core import resolve_checkpoint
from subjectgen.toybox.world import ACCESSORIES, COLOURS, PARTS, PATTERNS, SCENES, SHAPES, Toy, View

_COLOURS = (*COLOURS, "")
CLASSES: dict[str, tuple[str, ...]] = {
    "scene": SCENES,
    "shape": SHAPES,
    "pattern": PATTERNS,
    "part": PARTS,
    "accessory": ACCESSORIES,
    "colour": _COLOURS,
    "second_colour": _COLOURS,
    "part_colour": _COLOURS,
}
IDENTITY_WIDTH = 64
DEFAULT_WEIGHTS = "package:subjectgen.toybox/weights/judge"


class Judge(nn.Module):
    """A small convolutional network with one head per question."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for width in widths:
            layers += [_convolution(previous, width, stride=2), _convolution(width, width, stride=1)]
            previous = width
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(previous * 16, 256), nn.GELU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(classes)) for name, classes in CLASSES.items()})
        self.angles = nn.Linear(256, 3)
        self.identity = nn.Linear(256, IDENTITY_WIDTH)

    def forward(self, images: Float[Tensor, "b 3 64 64"]) -> dict[str, Tensor]:
        """Class scores by question, ``angles`` (sine and cosine of the azimuth, polar / 90) and unit ``identity``."""
        features = self.trunk(images * 2 - 1)
        answers = {name: head(features) for name, head in self.heads.items()}
        return answers | {
            "angles": self.angles(features),
            "identity": functional.normalize(self.identity(features), dim=-1),
        }

    @torch.no_grad()
    def verdicts(self, images: Float[Tensor, "b 3 h w"]) -> list[dict[str, str | float]]:
        """Answers in words for pictures of any size, with azimuth and polar angle in degrees."""
        return self.in_words(self(fit(images)))

    @staticmethod
    def in_words(answers: Mapping[str, Tensor]) -> list[dict[str, str | float]]:
        """What :meth:`forward` gives, in words: one mapping per picture, angles in degrees."""
        azimuths = torch.atan2(answers["angles"][:, 0], answers["angles"][:, 1]).rad2deg().tolist()
        polars = answers["angles"][:, 2].tolist()
        chosen = {name: answers[name].argmax(-1).tolist() for name in CLASSES}
        return [
            {name: CLASSES[name][numbers[row]] for name, numbers in chosen.items()}
            | {"azimuth": azimuth, "polar": 90 * polar}
            for row, (azimuth, polar) in enumerate(zip(azimuths, polars, strict=True))
        ]

    @torch.no_grad()
    def identities(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 64"]:
        """Unit identity vectors; the cosine says how alike two toys are."""
        return self(fit(images))["identity"]

    def save(self, folder: Path) -> None:
        """Write one safetensors file in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.half().contiguous() for name, value in self.state_dict().items()}, folder / "judge.safetensors"
        )

    @classmethod
    def load(cls, checkpoint: str = DEFAULT_WEIGHTS) -> Judge:
        """Read the shipped weights, or others of the same shape."""
        judge = cls()
        state = load_file(Path(resolve_checkpoint(checkpoint)) / "judge.safetensors")
        judge.load_state_dict({name: value.float() for name, value in state.items()})
        return judge.eval().requires_grad_(False)


def fit(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 64 64"]:
    """Resize to the judge's 64 pixels."""
    if images.shape[-2:] == (64, 64):
        return images
    return functional.interpolate(images, size=(64, 64), mode="bicubic", antialias=True).clamp(0, 1)


def truth(toys: list[Toy], views: list[View]) -> Mapping[str, Tensor]:
    """The right answers, as class numbers and angles."""
    columns: dict[str, list[int]] = {name: [] for name in CLASSES}
    angles = []
    for toy, view in zip(toys, views, strict=True):
        words = {
            "scene": view.scene,
            "shape": toy.shape,
            "pattern": toy.pattern,
            "part": toy.part,
            "accessory": view.accessory,
            "colour": toy.colour,
            "second_colour": toy.second_colour or "",
            "part_colour": toy.part_colour or "",
        }
        for name, classes in CLASSES.items():
            columns[name].append(classes.index(words[name]))
        azimuth = math.radians(view.azimuth)
        angles.append((math.sin(azimuth), math.cos(azimuth), view.polar / 90))
    answers = {name: torch.tensor(numbers) for name, numbers in columns.items()}
    return answers | {"angles": torch.tensor(angles)}


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(8, outputs), nn.GELU())
