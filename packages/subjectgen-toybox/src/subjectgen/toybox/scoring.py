"""What the toy world's metrics share: a gallery of the held-out toys, the judge, and means that can be merged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from subjectgen.core import Config as BaseConfig, InputError, Reference, Sample
from subjectgen.toybox.captions import scene_of
from subjectgen.toybox.datasets import toy_of
from subjectgen.toybox.judge import DEFAULT_WEIGHTS, Judge
from subjectgen.toybox.renderer import render
from subjectgen.toybox.world import SCENES, Draw, angular_difference, held_out_toys, random_view

ATTRIBUTES = ("shape", "pattern", "part", "colour")
Verdict = Mapping[str, str | float]


class GalleryScores:
    """Held-out toys in a gallery, the judge, and means of what was added."""

    class Config(BaseConfig):
        """Options of every metric on held-out toys."""

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

    def merge(self, other: GalleryScores) -> None:
        """Add another metric's counts."""
        for name, total in other.totals.items():
            self.totals[name] += total
        self.counts.update(other.counts)

    def compute(self) -> Mapping[str, float]:
        """Means by name; empty before the first update."""
        return {name: self.totals[name] / count for name, count in self.counts.items()}

    def judge_accuracy(self, *, views: int = 6) -> dict[str, float]:
        """The judge on real renders of the same toys: other views, every scene, no accessories.

        Returns:
            Shares of right scenes, shapes and identities, and the mean error of the azimuth in degrees.
        """
        draw, sums = Draw(self.config.seed + 2), dict.fromkeys(("scene", "shape", "identity", "azimuth"), 0.0)
        for turn in range(views):
            shown = [
                random_view(draw, scene=SCENES[(i + turn) % len(SCENES)], accessories=False)
                for i in range(len(self.toys))
            ]
            pictures = render(self.toys, shown)
            nearest = self.nearest(pictures)
            for number, (row, view) in enumerate(zip(self.judge.verdicts(pictures), shown, strict=True)):
                sums["scene"] += row["scene"] == view.scene
                sums["shape"] += row["shape"] == self.toys[number].shape
                sums["identity"] += nearest[number] == number
                sums["azimuth"] += angular_difference(float(row["azimuth"]), view.azimuth)
        return {f"{name}_judge": total / (views * len(self.toys)) for name, total in sums.items()}

    def nearest(self, pictures: Float[Tensor, "b 3 h w"]) -> list[int]:
        """Number of the toy that each picture resembles most."""
        return (self.judge.identities(pictures) @ self.gallery.T).argmax(-1).tolist()

    def add(self, name: str, value: float | bool) -> None:
        """Count one value of a mean."""
        self.totals[name] += float(value)
        self.counts[name] += 1

    def add_attributes(self, verdict: Verdict, number: int, *, names: Iterable[str] = ATTRIBUTES) -> None:
        """Compare what the judge sees with what a toy is."""
        for name in names:
            self.add(f"{name}_accuracy", verdict[name] == getattr(self.toys[number], name))

    def number_of(self, reference: Reference | None) -> int:
        """Which held-out toy a reference shows.

        Raises:
            InputError: It is none of them.
        """
        name = reference.name if reference is not None else None
        number = toy_of(name)
        if number is None or number >= len(self.toys):
            last = f"toy-{len(self.toys) - 1:03d}"
            raise InputError(f"reference {name!r}: expected a toy of the dataset held_out_toys, toy-000 to {last}")
        return number


def prompted_scene(sample: Sample) -> str:
    """The scene that a sample's prompt asks for.

    Raises:
        InputError: It names none.
    """
    scene = scene_of(sample.prompt)
    if scene is None:
        raise InputError(f"prompt {sample.prompt!r} names no scene; expected one of {', '.join(SCENES)}")
    return scene
