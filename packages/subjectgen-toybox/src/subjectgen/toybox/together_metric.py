"""Scores of several toys in one picture: who is where, and whether the scene is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from subjectgen.core import SHARE, ChangesResults, InputError, Quantity, Row, Sample
from subjectgen.toybox.scoring import SHARES, Gallery, Seen
from subjectgen.toybox.together import Box


class TogetherScores(Gallery):
    """Identity by region, all regions right, toys in each other's places, scene and attributes.

    Samples have the facts ``toys``, ``held_out_seed`` and ``scene``, as those of the dataset ``toys_together``. All
    scores are shares. ``identity_top1`` and the attributes are shares of a picture's regions; ``both_right`` (every
    region shows its toy), ``swapped`` (some region shows another region's toy) and ``scene_accuracy`` (more than half
    of the regions show the wanted scene) are 1 or 0.
    """

    class Config(Gallery.Config):
        """Options of ``together_scores``."""

        crops: ChangesResults[tuple[Box, ...]] = Field(default=((0, 0, 64, 64), (100, 0, 164, 64)), min_length=1)
        """What is judged for each reference, in order: left, top, right, bottom in pixels. The defaults are the squares
        of the judge's own 64 pixels around columns 32 and 132, where the tiny base draws toys in a picture of
        64 x 176 (see ``toys_together``)."""

    scores: Mapping[str, Quantity] = {
        **SHARES,
        "both_right": replace(SHARE, meaning="every region shows its toy"),
        "swapped": replace(SHARE, better="lower", meaning="some region shows another region's toy"),
    }
    config: Config

    def measure(self, samples: Sequence[Sample], images: Sequence[Float[Tensor, "3 _ _"]]) -> Sequence[Row]:
        """Judge generated images.

        Raises:
            InputError: A sample that lacks a fact, has other than one toy per crop or toys that the gallery does not
                have; or an image that is smaller than the crops.
        """
        wanted = [self._wanted(sample) for sample in samples]
        for sample, image in zip(samples, images, strict=True):
            self._check_size(sample, image)
        boxes = self.config.crops
        crops = [image[:, top:bottom, left:right] for image in images for left, top, right, bottom in boxes]
        seen = self.look(crops)
        return [
            self._row(scene, numbers, seen[place * len(boxes) : (place + 1) * len(boxes)])
            for place, (scene, numbers) in enumerate(wanted)
        ]

    def _row(self, scene: str, numbers: list[int], regions: Sequence[Seen]) -> Row:
        found = [seen.nearest for seen in regions]
        pairs = list(zip(numbers, regions, strict=True))
        attributes = [self.right_attributes(seen, own) for own, seen in pairs]
        in_scene = sum(seen.words["scene"] == scene for seen in regions)
        return {
            "scene_accuracy": float(in_scene > len(regions) / 2),
            **{name: fmean(one[name] for one in attributes) for name in attributes[0]},
            "identity_top1": fmean(float(seen.nearest == own) for own, seen in pairs),
            "both_right": float(found == numbers),
            "swapped": float(any(seen.nearest != own and seen.nearest in numbers for own, seen in pairs)),
        }

    def _wanted(self, sample: Sample) -> tuple[str, list[int]]:
        """The scene, and the numbers of the toys in their places."""
        toys = sample.fact("toys")
        numbers = self.numbers(sample, "toys", toys if isinstance(toys, list) else [toys])
        if len(numbers) != len(self.config.crops):
            raise InputError(
                f"sample {sample.key!r}: toys: got {toys}; expected one per crop, {len(self.config.crops)}"
            )
        return str(sample.fact("scene")), numbers

    def _check_size(self, sample: Sample, image: Tensor) -> None:
        height, width = image.shape[-2:]
        for number, (_, _, right, bottom) in enumerate(self.config.crops):
            if right > width or bottom > height:
                raise InputError(
                    f"crops.{number}: reaches to column {right} and row {bottom}; the image of sample {sample.key!r} "
                    f"is {width} wide and {height} high"
                )
