"""Differences between paired losses, with standard errors over subjects."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """By how much one loss is below another, on the same samples and noise."""

    mean: float
    error: float | None
    """Standard error; samples of one subject count as one draw. ``None`` for one subject."""
    n: int
    """Samples."""
    subjects: int


def gain(losses: Mapping[str, float], below: Mapping[str, float], subjects: Mapping[str, str]) -> Gain:
    """The mean of ``below - losses`` over samples.

    Args:
        losses: By sample.
        below: The losses they should be below, of the same samples.
        subjects: Whom each sample shows.
    """
    differences = {key: below[key] - loss for key, loss in losses.items()}
    mean = sum(differences.values()) / len(differences)
    sums: dict[str, float] = defaultdict(float)
    for key, difference in differences.items():
        sums[subjects[key]] += difference - mean
    count = len(sums)
    error = None
    if count > 1:  # of a ratio of sums over clusters (Cochran 1977, 6.4)
        error = math.sqrt(sum(value**2 for value in sums.values()) * count / (count - 1)) / len(differences)
    return Gain(mean=mean, error=error, n=len(differences), subjects=count)


def contrasts(branches: Sequence[str], nobody: str, everyone: str) -> list[tuple[str, str]]:
    """What is compared with what: each branch with nobody, and all of several with each branch."""
    alone = [(name, nobody) for name in branches]
    return alone if len(branches) == 1 else [*alone, *((everyone, name) for name in branches)]
