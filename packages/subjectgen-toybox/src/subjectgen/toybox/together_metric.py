"""Scores of several toys in one picture: who is where, and whether the scene is right."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from subjectgen.core import InputError, Sample
from subjectgen.toybox.scoring import GalleryScores, prompted_scene
from subjectgen.toybox.together import Box


class TogetherScores(GalleryScores):
    """Identity by region, all regions right, toys in each other's places, scene and attributes.

    Samples come from the dataset ``toys_together`` with the same number of toys and the same seed. All scores are
    shares. ``identity_top1`` and the attributes count regions; ``both_right`` (every region shows its toy),
    ``swapped`` (some region shows another region's toy) and ``scene_accuracy`` (more than half of the regions show
    the prompted scene) count pictures.
    """

    class Config(GalleryScores.Config):
        """Options of ``together_scores``."""

        crops: tuple[Box, ...] = Field(default=((0, 0, 64, 64), (100, 0, 164, 64)), min_length=1)
        """What is judged for each reference, in order: left, top, right, bottom in pixels. The defaults are the squares
        of the judge's own 64 pixels around columns 32 and 132, where the tiny base draws toys in a picture of
        64 x 176 (see ``toys_together``)."""

    config: Config

    def update(self, samples: Sequence[Sample], images: Sequence[Float[Tensor, "3 h w"]]) -> None:
        """Judge generated images.

        Raises:
            InputError: A sample without a prompted scene or with other than one named toy per crop, or an image that
                is smaller than the crops.
        """
        if not samples:
            return
        truths = [(prompted_scene(sample), self._numbers(sample)) for sample in samples]  # before any is counted
        for image in images:
            self._check_size(image)
        for (scene, numbers), image in zip(truths, images, strict=True):
            self._add_picture(scene, numbers, image.float())

    def _add_picture(self, scene: str, numbers: list[int], image: Float[Tensor, "3 h w"]) -> None:
        crops = [image[None, :, top:bottom, left:right] for left, top, right, bottom in self.config.crops]
        seen = [self.nearest(crop)[0] for crop in crops]
        verdicts = [self.judge.verdicts(crop)[0] for crop in crops]
        for own, best, verdict in zip(numbers, seen, verdicts, strict=True):
            self.add("identity_top1", best == own)
            self.add_attributes(verdict, own)
        self.add("both_right", seen == numbers)
        self.add("swapped", any(best != own and best in numbers for own, best in zip(numbers, seen, strict=True)))
        self.add("scene_accuracy", sum(verdict["scene"] == scene for verdict in verdicts) > len(verdicts) / 2)

    def _numbers(self, sample: Sample) -> list[int]:
        """Which toys the references show."""
        numbers = [self.number_of(reference) for reference in sample.references]
        if len(numbers) != len(self.config.crops):
            raise InputError(
                f"prompt {sample.prompt!r} has {len(numbers)} references; expected one per crop, "
                f"{len(self.config.crops)}"
            )
        return numbers

    def _check_size(self, image: Tensor) -> None:
        height, width = image.shape[-2:]
        for number, (_, _, right, bottom) in enumerate(self.config.crops):
            if right > width or bottom > height:
                raise InputError(
                    f"crops.{number}: reaches to column {right} and row {bottom}; the image is {width} wide and "
                    f"{height} high"
                )
