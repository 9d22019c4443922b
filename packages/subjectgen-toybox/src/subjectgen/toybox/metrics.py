"""Scores of generated toys against the toy world's ground truth, always beside the judge's own accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import Sample
from subjectgen.toybox.scoring import GalleryScores, prompted_scene
from subjectgen.toybox.world import angular_difference

RECALL_DEGREES = (5, 10, 15, 20)


class ToyScores(GalleryScores):
    """Scene and shape accuracy, identity among the held-out toys, and how much the reference's pose was copied.

    Samples come from the dataset ``held_out_toys`` with the same number of toys and the same seed. Scores are shares,
    but for the mean azimuth difference in degrees.
    """

    class Config(GalleryScores.Config):
        """Options of ``toy_scores``."""

    def update(self, samples: Sequence[Sample], images: Sequence[Float[Tensor, "3 h w"]]) -> None:
        """Judge generated images.

        Raises:
            InputError: A sample without a prompted scene or a named toy.
        """
        if not samples:
            return
        truths = [  # all of them, before any is counted
            (prompted_scene(sample), self.number_of(next(iter(sample.references), None))) for sample in samples
        ]
        pictures = torch.stack([image.float() for image in images])
        nearest = self.nearest(pictures)
        references = self.judge.verdicts(torch.stack([sample.references[0].image for sample in samples]))
        for (scene, number), row, best, reference in zip(
            truths, self.judge.verdicts(pictures), nearest, references, strict=True
        ):
            self.add("scene_accuracy", row["scene"] == scene)
            self.add_attributes(row, number)
            self.add("identity_top1", best == number)
            azimuth = angular_difference(float(row["azimuth"]), float(reference["azimuth"]))
            polar = abs(float(row["polar"]) - float(reference["polar"]))
            self.add("azimuth_difference", azimuth)
            for limit in RECALL_DEGREES:
                self.add("copy_paste_recall", azimuth < limit and polar < limit)
