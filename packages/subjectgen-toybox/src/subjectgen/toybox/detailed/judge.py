"""One small network that judges detailed toys: scene, words, badge, pattern code, tint, angles, an identity vector.

It first says where the badge is, then looks at the badge from the front, so that a badge reads alike from every side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from subjectgen.core import resolve_checkpoint
from subjectgen.toybox.detailed.details import BADGES, CELLS, CODE_BITS, CODES, NO_CODE, bits
from subjectgen.toybox.detailed.renderer import SIZE
from subjectgen.toybox.judge import CLASSES, Judge as WordsJudge

IDENTITY_WIDTH = 64
CROP, CROP_REACH = 24, 1.3
"""Pixels of the badge seen from the front, and how far it reaches, where 1 is the edge of the cells."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge sees in one picture."""

    words: Mapping[str, str | float]
    """Answers by question, and ``azimuth`` and ``polar`` in degrees."""
    badge: int
    """The nearest word of :data:`BADGES`."""
    cells: tuple[bool, ...]
    """The nine cells before the nearest word was taken."""
    code: int
    """The nearest word of :data:`CODES`; :data:`NO_CODE` where the pattern is plain."""
    tint: tuple[float, float]


class DetailedJudge(nn.Module):
    """A convolutional trunk with one head per question, and a second, smaller look at the badge."""

    def __init__(self, widths: tuple[int, int, int, int] = (16, 48, 96, 128)) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.near = nn.Sequential(
            *_stage(3, first), *_stage(first, second), *_stage(second, third)
        )  # 12 x 12: knows where things are
        self.far = nn.Sequential(
            *_stage(third, fourth), nn.Conv2d(fourth, 64, 1), nn.Flatten(), nn.Linear(64 * 36, 256), nn.GELU()
        )
        self.heatmaps = nn.Conv2d(third, 3, 1)
        self.correction = nn.Linear(256, 6)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        self.look = nn.Sequential(
            _convolution(3, 24, stride=2),
            _convolution(24, 32, stride=2),
            nn.Flatten(),
            nn.Linear(32 * 36, 64),
            nn.GELU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(classes)) for name, classes in CLASSES.items()})
        self.angles, self.tint = nn.Linear(256, 3), nn.Linear(256, 2)
        self.code = nn.Sequential(nn.Linear(256, 128), nn.GELU(), nn.Linear(128, CODE_BITS))
        self.cells = nn.Linear(64, CELLS)
        self.identity = nn.Linear(256 + 64, IDENTITY_WIDTH)

    def forward(
        self, images: Float[Tensor, "b 3 96 96"], place: Float[Tensor, "b 2 3"] | None = None
    ) -> dict[str, Tensor]:
        """All answers as numbers.

        Args:
            images: Pictures in [0, 1].
            place: Where to look for the badge instead of where the judge finds it; off by more than a little, it is
                taken as a hint. Training gives the true one.

        Returns:
            Class scores by question; ``angles`` (sine and cosine of the azimuth, polar / 90); ``place`` as
            :func:`subjectgen.toybox.detailed.camera.badge_place`; ``cells`` and ``code`` (scores of set bits);
            ``tint``; unit ``identity``.
        """
        near = self.near(images * 2 - 1)
        far = self.far(near)
        found = _keypoints(self.heatmaps(near)) + self.correction(far).unflatten(-1, (2, 3))
        looked = found.detach()
        if place is not None:
            looked = place + (looked - place).clamp(-0.08, 0.08)
        badge = self.look(rectify(images, looked) * 2 - 1)
        answers = {name: head(far) for name, head in self.heads.items()}
        identity = functional.normalize(self.identity(torch.cat([far, badge], dim=-1)), dim=-1)
        return answers | {
            "angles": self.angles(far),
            "place": found,
            "cells": self.cells(badge),
            "code": self.code(far),
            "tint": self.tint(far),
            "identity": identity,
        }

    @torch.no_grad()
    def verdicts(self, images: Float[Tensor, "b 3 h w"]) -> list[Verdict]:
        """Answers for pictures of any size."""
        return self.in_words(self(fit(images)))

    @staticmethod
    def in_words(answers: Mapping[str, Tensor]) -> list[Verdict]:
        """What :meth:`forward` gives, in words: one verdict per picture."""
        words = WordsJudge.in_words(answers)
        badges = nearest_word(answers["cells"], BADGES).tolist()
        codes = nearest_word(answers["code"], CODES).tolist()
        cells = (answers["cells"] > 0).tolist()
        return [
            Verdict(
                words=word,
                badge=badges[row],
                cells=tuple(cells[row]),
                code=NO_CODE if word["pattern"] == "plain" else codes[row],
                tint=(float(answers["tint"][row, 0]), float(answers["tint"][row, 1])),
            )
            for row, word in enumerate(words)
        ]

    @torch.no_grad()
    def identities(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 64"]:
        """Unit identity vectors; the cosine says how alike two toys are."""
        return self(fit(images))["identity"]

    def save(self, folder: Path) -> None:
        """Write one safetensors file in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.half().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / "judge.safetensors")

    @classmethod
    def load(cls, checkpoint: str) -> DetailedJudge:
        """Read weights that :meth:`save` wrote."""
        judge = cls()
        state = load_file(Path(resolve_checkpoint(checkpoint)) / "judge.safetensors")
        judge.load_state_dict({name: value.float() for name, value in state.items()})
        return judge.eval().requires_grad_(False)


def fit(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 96 96"]:
    """Resize to the judge's 96 pixels."""
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    return functional.interpolate(images, size=(SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)


def rectify(images: Float[Tensor, "b 3 h w"], place: Float[Tensor, "b 2 3"]) -> Float[Tensor, "b 3 24 24"]:
    """The badge as seen from the front, with a margin (spatial transformer, Jaderberg et al. 2015)."""
    line = torch.linspace(-CROP_REACH, CROP_REACH, CROP, device=images.device)
    up, across = torch.meshgrid(-line, line, indexing="ij")
    points = torch.stack([across, up, torch.ones_like(up)], dim=-1)
    grid = torch.einsum("hwk,bck->bhwc", points, place)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def nearest_word(scores: Float[Tensor, "b bits"], words: tuple[int, ...]) -> Int[Tensor, " b"]:
    """The word of a code that fits the scores of its bits best (soft decoding)."""
    signs = torch.tensor([bits(word, scores.shape[-1]) for word in words], device=scores.device) * 2.0 - 1
    return torch.tensor(words, device=scores.device)[(scores.float() @ signs.T).argmax(-1)]


def _keypoints(heatmaps: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2 3"]:
    """Expected place of three heatmaps: the first two relative to the third, as the columns of an affine map are."""
    weights = heatmaps.flatten(2).softmax(-1).unflatten(2, heatmaps.shape[2:])
    line = (torch.arange(heatmaps.shape[-1], device=heatmaps.device) + 0.5) / heatmaps.shape[-1] * 2 - 1
    x, y = (weights.sum(2) * line).sum(-1), (weights.sum(3) * line).sum(-1)
    points = torch.stack([x, y], dim=1)
    return torch.cat([points[..., :2] - points[..., 2:], points[..., 2:]], dim=-1)


def _stage(inputs: int, outputs: int) -> list[nn.Module]:
    return [_convolution(inputs, outputs, stride=2), _convolution(outputs, outputs, stride=1)]


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(8, outputs), nn.GELU())
