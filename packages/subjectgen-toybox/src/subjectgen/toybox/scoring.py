"""What the toy world's metrics share: a gallery of the held-out toys, and the judge that looks at pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from subjectgen.core import (
    JSON,
    SHARE,
    ChangesNothing,
    ChangesResults,
    Config as BaseConfig,
    InputError,
    Quantity,
    Sample,
)
from subjectgen.toybox.judge import DEFAULT_WEIGHTS, Judge, fit
from subjectgen.toybox.renderer import render
from subjectgen.toybox.world import SCENES, Draw, angular_difference, held_out_toys, random_view

ATTRIBUTES = ("shape", "pattern", "part", "colour")
CALIBRATED = ("scene_accuracy", "shape_accuracy", "identity_top1", "azimuth_difference")
CALIBRATION_VIEWS = 6
BATCH = 64
"""Pictures that the judge sees at once."""
SHARES: dict[str, Quantity] = {
    name: replace(SHARE, meaning=meaning)
    for name, meaning in (
        ("scene_accuracy", "right scene"),
        ("shape_accuracy", "right body shape"),
        ("pattern_accuracy", "right pattern"),
        ("part_accuracy", "right part"),
        ("colour_accuracy", "right body colour"),
        ("identity_top1", "the nearest of all held-out toys is the right one"),
    )
}
"""Scores that both metrics have."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the judge sees in one picture."""

    words: Mapping[str, str | float]
    """Its answers, and azimuth and polar angle in degrees."""
    nearest: int
    """Number of the held-out toy that it resembles most."""


class Gallery(nn.Module):
    """Held-out toys in a gallery and the judge. It is moved to a device as a whole; pictures follow it."""

    class Config(BaseConfig):
        """Options of every metric on held-out toys."""

        toys: ChangesResults[int] = Field(default=32, ge=1, le=512)
        """Identities to choose from."""
        seed: ChangesResults[int] = Field(default=0, ge=0)
        """Seed of the held-out toys; that of the samples."""
        judge: ChangesNothing[str] = DEFAULT_WEIGHTS
        """Folder of the judge's weights."""

    scores: Mapping[str, Quantity] = SHARES
    gallery: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.toys = held_out_toys(config.toys, seed=config.seed)
        self.judge = Judge.load(config.judge)
        draw = Draw(config.seed + 1)
        pictures = render(self.toys, [random_view(draw, accessories=False) for _ in self.toys])
        self.register_buffer("gallery", self.judge.identities(pictures), persistent=False)

    def calibrate(self) -> dict[str, float]:
        """The judge on real renders of the same toys: other views, every scene, no accessories.

        Returns:
            Shares of right scenes, shapes and identities, and the mean error of the azimuth in degrees, as far as they
            are scores of this metric.
        """
        draw, hits = Draw(self.config.seed + 2), dict.fromkeys(CALIBRATED, 0.0)
        for turn in range(CALIBRATION_VIEWS):
            shown = [
                random_view(draw, scene=SCENES[(i + turn) % len(SCENES)], accessories=False)
                for i in range(len(self.toys))
            ]
            for number, (seen, view) in enumerate(zip(self.look(render(self.toys, shown)), shown, strict=True)):
                hits["scene_accuracy"] += seen.words["scene"] == view.scene
                hits["shape_accuracy"] += seen.words["shape"] == self.toys[number].shape
                hits["identity_top1"] += seen.nearest == number
                hits["azimuth_difference"] += angular_difference(float(seen.words["azimuth"]), view.azimuth)
        count = CALIBRATION_VIEWS * len(self.toys)
        return {name: total / count for name, total in hits.items() if name in self.scores}

    @torch.no_grad()
    def look(self, pictures: Iterable[Float[Tensor, "3 _ _"]]) -> list[Seen]:
        """What the judge sees in each picture, of any size and from any device."""
        found: list[Seen] = []
        fitted = (fit(picture[None].to(self.gallery.device, torch.float32)) for picture in pictures)
        for batch in _batches(fitted, BATCH):
            answers = self.judge(torch.cat(batch))
            nearest = (answers["identity"] @ self.gallery.T).argmax(-1).tolist()
            words = self.judge.in_words(answers)
            found += [Seen(words=word, nearest=number) for word, number in zip(words, nearest, strict=True)]
        return found

    def right_attributes(self, seen: Seen, number: int) -> dict[str, float]:
        """Which attributes of this toy the judge sees, by score: 1 or 0."""
        toy = self.toys[number]
        return {f"{name}_accuracy": float(seen.words[name] == getattr(toy, name)) for name in ATTRIBUTES}

    def numbers(self, sample: Sample, fact: str, values: Sequence[JSON]) -> list[int]:
        """The numbers of the toys that a sample shows, ``values`` of a fact, if this gallery has them.

        Raises:
            InputError: other numbers, or held-out toys of another seed; names the sample and the fact.
        """
        seed = sample.fact("held_out_seed")
        if seed != self.config.seed:
            raise InputError(
                f"sample {sample.key!r}: held_out_seed: got {seed}; expected the metric's seed, {self.config.seed}"
            )
        known = [number for number in values if type(number) is int and 0 <= number < len(self.toys)]
        if len(known) < len(values):
            raise InputError(
                f"sample {sample.key!r}: {fact}: got {sample.facts[fact]}; expected numbers of held-out toys, 0 to "
                f"{len(self.toys) - 1} (the metric's toys: {len(self.toys)})"
            )
        return known


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while batch := list(islice(items, size)):
        yield batch
