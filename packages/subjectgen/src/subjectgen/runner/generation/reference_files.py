"""Reference pictures as a command line names them: files, and what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError, Reference, load_mask, load_reference

FIND = "find:"
"""Before a phrase: the experiment's finder looks for it."""


@dataclass(frozen=True, kw_only=True)
class ReferenceFiles:
    """Pictures of subjects; the n-th mask, region and weight belong to the n-th picture."""

    pictures: tuple[Path, ...] = ()
    subject_masks: tuple[str, ...] = ()
    """Where the subject is in its picture: a picture, a box, ``find:`` and a phrase, or nothing (``""``)."""
    regions: tuple[str, ...] = ()
    """Where the subject shall appear in the result: the same forms."""
    weights: tuple[float, ...] = ()
    """How strongly each reference speaks."""

    def read(self) -> list[Reference]:
        """Read pictures, their subject masks and weights.

        Raises:
            InputError: An unreadable file, or more masks, regions or weights than pictures.
        """
        for option, values in (
            ("subject-mask", self.subject_masks),
            ("region", self.regions),
            ("weight", self.weights),
        ):
            if len(values) > len(self.pictures):
                raise InputError(
                    f"--{option}: got {len(values)}, but there are {len(self.pictures)} references; "
                    "expected at most one for each"
                )
        for region in self.regions:
            if region and not region.startswith(FIND) and region.count(",") != 3:
                load_mask(region, label="region")  # now, before models load; boxes have to wait for the result's size
        return [self._one(number, load_reference(path)) for number, path in enumerate(self.pictures)]

    def placed(self, references: Sequence[Reference], size: tuple[int, int]) -> list[Reference]:
        """The references with their regions in a result of this height and width.

        Raises:
            InputError: A region that cannot be read, or a box that is empty or reaches outside.
        """
        return [
            replace(reference, region_mask=self._mask("region", self.regions, number, size))
            for number, reference in enumerate(references)
        ]

    def phrases(self, kind: Literal["subject_masks", "regions"]) -> dict[int, str]:
        """What a finder has to look for, by number of the reference."""
        values: tuple[str, ...] = getattr(self, kind)
        return {n: value.removeprefix(FIND).strip() for n, value in enumerate(values) if value.startswith(FIND)}

    def record(self) -> dict[str, object]:
        """What was given, to be kept beside an image."""
        known = {"subject_masks": self.subject_masks, "regions": self.regions, "weights": self.weights}
        return {"references": [path.name for path in self.pictures]} | {k: list(v) for k, v in known.items() if v}

    def __bool__(self) -> bool:
        return bool(self.pictures or self.subject_masks or self.regions or self.weights)

    def _one(self, number: int, reference: Reference) -> Reference:
        height, width = reference.image.shape[-2:]
        mask = self._mask("subject mask", self.subject_masks, number, (height, width))
        if mask is not None and mask.shape[-2:] != (height, width):
            sizes = (*mask.shape[-2:], height, width)
            raise InputError(
                f"subject mask {self.subject_masks[number]!r}: "
                + "is {}x{}; expected the size of its reference, {}x{}".format(*sizes)
            )
        return replace(
            reference,
            subject_mask=mask,
            weight=self.weights[number] if number < len(self.weights) else 1.0,
        )

    @staticmethod
    def _mask(label: str, values: Sequence[str], number: int, size: tuple[int, int]) -> Float[Tensor, "1 h w"] | None:
        if number >= len(values) or not values[number] or values[number].startswith(FIND):
            return None
        return load_mask(values[number], size, label=label)
