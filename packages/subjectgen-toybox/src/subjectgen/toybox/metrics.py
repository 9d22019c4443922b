"""Scores of generated toys against the toy world's ground truth, with the judge's own accuracy as calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError, Quantity, Row, Sample
from subjectgen.toybox.scoring import SHARES, Gallery, Seen
from subjectgen.toybox.world import angular_difference

RECALL_DEGREES = (5, 10, 15, 20)


class ToyScores(Gallery):
    """Scene and attributes, identity among the held-out toys, and how much the reference's pose was copied.

    Samples have the facts ``toy``, ``held_out_seed`` and ``scene``, as those of the dataset ``held_out_toys``, and one
    reference. Poses are those that the judge sees in image and reference.
    """

    class Config(Gallery.Config):
        """Options of ``toy_scores``."""

    scores: Mapping[str, Quantity] = {
        **SHARES,
        "azimuth_difference": Quantity(
            unit="degrees", low=0, high=180, better="none", meaning="azimuth difference to the reference"
        ),
        "copy_paste_recall": Quantity(
            unit="share",
            low=0,
            high=1,
            better="lower",
            meaning="limits of 5, 10, 15 and 20 degrees within which both angles are the reference's",
        ),
    }
    config: Config

    def measure(self, samples: Sequence[Sample], images: Sequence[Float[Tensor, "3 _ _"]]) -> Sequence[Row]:
        """Judge generated images.

        Raises:
            InputError: A sample that lacks a fact or a reference, or of toys that the gallery does not have.
        """
        wanted = [self._wanted(sample) for sample in samples]
        references = self.look(sample.references[0].image for sample in samples)
        return [
            self._row(scene, number, seen, reference)
            for (scene, number), seen, reference in zip(wanted, self.look(images), references, strict=True)
        ]

    def _wanted(self, sample: Sample) -> tuple[str, int]:
        """The scene and the number of the toy that the image shall show."""
        (number,) = self.numbers(sample, "toy", [sample.fact("toy")])
        if not sample.references:
            raise InputError(f"sample {sample.key!r}: has no reference; expected one")
        return str(sample.fact("scene")), number

    def _row(self, scene: str, number: int, seen: Seen, reference: Seen) -> Row:
        azimuth = angular_difference(float(seen.words["azimuth"]), float(reference.words["azimuth"]))
        polar = abs(float(seen.words["polar"]) - float(reference.words["polar"]))
        copied = [azimuth < limit and polar < limit for limit in RECALL_DEGREES]
        return {
            "scene_accuracy": float(seen.words["scene"] == scene),
            **self.right_attributes(seen, number),
            "identity_top1": float(seen.nearest == number),
            "azimuth_difference": azimuth,
            "copy_paste_recall": sum(copied) / len(copied),
        }
