"""Scores of generated toys against the toy world's ground truth, always beside the judge's own accuracy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from subjectgen.core import Config as BaseConfig, InputError, Sample
from subjectgen.toybox.captions import scene_of
from subjectgen.toybox.datasets import toy_of
from subjectgen.toybox.judge import DEFAULT_WEIGHTS, Judge
from subjectgen.toybox.renderer import render
from subjectgen.toybox.world import SCENES, Draw, angular_difference, held_out_toys, random_view

RECALL_DEGREES = (5, 10, 15, 20)


class ToyScores:
    """Scene and shape accuracy, identity among the held-out toys, and how much the reference's pose was copied.

    Samples come from the dataset ``held_out_toys`` with the same number of toys and the same seed.
    """

    class Config(BaseConfig):
        """Options of ``toy_scores``."""

        toys: int = Field(default=32, ge=1, le=512)
        """Identities to choose from."""
        seed: int = Field(default=0, ge=0)
        """Seed of the held-out toys."""
        judge: str = DEFAULT_WEIGHTS
        """Folder of the judge's weights."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.toys = held_out_toys(config.toys, seed=config.seed)
        self.judge = Judge.load(config.judge)
        draw = Draw(config.seed + 1)
        self.gallery = self.judge.identities(
            render(self.toys, [random_view(draw, accessories=False) for _ in self.toys])
        )
        self.totals: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()

    def update(self, samples: Sequence[Sample], images: Sequence[Float[Tensor, "3 h w"]]) -> None:
        """Judge generated images.

        Raises:
            InputError: A sample without a prompted scene or a named toy.
        """
        if not samples:
            return
        truths = [(_scene(sample), self._toy(sample)) for sample in samples]  # all of them, before any is counted
        pictures = torch.stack([image.float() for image in images])
        nearest = (self.judge.identities(pictures) @ self.gallery.T).argmax(-1)
        shown = torch.stack([sample.references[0].image for sample in samples])
        references = self.judge.verdicts(shown)
        for (scene, number), row, best, reference in zip(
            truths, self.judge.verdicts(pictures), nearest.tolist(), references, strict=True
        ):
            self._add("scene_accuracy", row["scene"] == scene)
            self._add("shape_accuracy", row["shape"] == self.toys[number].shape)
            self._add("pattern_accuracy", row["pattern"] == self.toys[number].pattern)
            self._add("part_accuracy", row["part"] == self.toys[number].part)
            self._add("colour_accuracy", row["colour"] == self.toys[number].colour)
            self._add("identity_top1", best == number)
            azimuth = angular_difference(float(row["azimuth"]), float(reference["azimuth"]))
            polar = abs(float(row["polar"]) - float(reference["polar"]))
            self._add("azimuth_difference", azimuth)
            for limit in RECALL_DEGREES:
                self._add("copy_paste_recall", azimuth < limit and polar < limit)

    def merge(self, other: ToyScores) -> None:
        """Add another metric's counts."""
        for name, total in other.totals.items():
            self.totals[name] += total
        self.counts.update(other.counts)

    def compute(self) -> Mapping[str, float]:
        """Shares, and the mean azimuth difference in degrees; empty before the first update."""
        return {name: self.totals[name] / count for name, count in self.counts.items()}

    def judge_accuracy(self, *, views: int = 6) -> dict[str, float]:
        """The judge on real renders of the same toys: other views, every scene, no accessories."""
        draw, right, total = Draw(self.config.seed + 2), Counter[str](), 0
        for turn in range(views):
            shown = [
                random_view(draw, scene=SCENES[(i + turn) % len(SCENES)], accessories=False)
                for i in range(len(self.toys))
            ]
            pictures = render(self.toys, shown)
            nearest = (self.judge.identities(pictures) @ self.gallery.T).argmax(-1).tolist()
            for number, (row, view) in enumerate(zip(self.judge.verdicts(pictures), shown, strict=True)):
                right["scene_judge"] += row["scene"] == view.scene
                right["shape_judge"] += row["shape"] == self.toys[number].shape
                right["identity_judge"] += nearest[number] == number
                total += 1
        return {name: right[name] / total for name in ("scene_judge", "shape_judge", "identity_judge")}

    def _toy(self, sample: Sample) -> int:
        """Which held-out toy the sample's reference shows."""
        name = sample.references[0].name if sample.references else None
        number = toy_of(name)
        if number is None or number >= len(self.toys):
            last = f"toy-{len(self.toys) - 1:03d}"
            raise InputError(f"reference {name!r}: expected a toy of the dataset held_out_toys, toy-000 to {last}")
        return number

    def _add(self, name: str, value: float | bool) -> None:
        self.totals[name] += float(value)
        self.counts[name] += 1


def _scene(sample: Sample) -> str:
    scene = scene_of(sample.prompt)
    if scene is None:
        raise InputError(f"prompt {sample.prompt!r} names no scene; expected one of {', '.join(SCENES)}")
    return scene
