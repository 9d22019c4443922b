"""Samples with the references or the prompt of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from subjectgen.core import Sample

INPUTS = {"references": "references", "prompts": "text"}
"""What is swapped, and what encoders call it that read it."""


class Swaps:
    """Finds for each row another one to take from, and keeps what it makes."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._made: dict[tuple[str, int, int], Sample] = {}

    def of(self, piece: Sequence[int], what: str) -> tuple[list[int], list[Sample]]:
        """Places in a piece whose rows have another one, and the samples of the whole piece, those swapped.

        Rows of a piece run together, so they take from each other: the shapes of the batch stay the same, and with them
        every bit of what does not listen. Only a row that runs alone takes from any other.
        """
        others = range(len(self._samples)) if len(piece) == 1 else piece
        kept, samples = [], []
        for place, row in enumerate(piece):
            start = list(others).index(row)
            turned = [*others[start + 1 :], *others[:start]]
            other = next((one for one in turned if _differ(self._samples[row], self._samples[one], what)), None)
            if other is not None:
                kept.append(place)
            samples.append(self._samples[row] if other is None else self._swapped(what, row, other))
        return kept, samples

    def _swapped(self, what: str, row: int, other: int) -> Sample:
        key = what, row, other
        if key not in self._made:
            one, from_ = self._samples[row], self._samples[other]
            self._made[key] = replace(one, prompt=from_.prompt) if what == "prompts" else _exchanged(one, from_)
        return self._made[key]


def _exchanged(one: Sample, other: Sample) -> Sample:
    """The other's pictures in this one's places."""
    pairs = zip(one.references, other.references, strict=False)
    return replace(
        one,
        references=tuple(
            replace(theirs, region_mask=own.region_mask, weight=own.weight, name=own.name) for own, theirs in pairs
        ),
    )


def _differ(one: Sample, other: Sample, what: str) -> bool:
    """Whether both have it, and not the same."""
    if what == "prompts":
        return bool(one.prompt and other.prompt) and one.prompt != other.prompt
    if not one.references or not other.references:
        return False
    pictures = [[reference.image for reference in sample.references] for sample in (one, other)]
    return len(pictures[0]) != len(pictures[1]) or not all(map(torch.equal, *pictures))
