"""From rows to numbers: a mean or median with its interval, and how many images of how many subjects it stands on.

Images of one subject are not independent: a subject that is easy is so in every scene. So the bootstrap draws subjects
with all their images (Davison and Hinkley 1997, 3.8), and what is reduced are the images of the drawn subjects, pooled.
Shape letters: r resamples, c clusters, n images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from subjectgen.core import Quantity
from subjectgen.runner.evaluation.rows import ScoreRow

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 0
"""The same for every score, so that scores of the same subjects are resampled alike."""
AT_ONCE = 1 << 21
"""Numbers that a piece of the resamples may fill."""


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """One score over many images."""

    value: float | None
    """``None`` if no image could be measured."""
    low: float | None
    """95 % bootstrap interval over subjects (percentiles, 2,000 resamples, a fixed seed); ``None`` for one subject."""
    high: float | None
    n: int
    """Images that were measured."""
    subjects: int
    """Subjects that these show."""
    missing: int
    """Images that could not be measured."""
    quantity: Quantity

    def written(self) -> dict[str, Any]:
        """As ``comparison.json`` and ``scores.json`` hold it; how it was reduced is the first key."""
        return {
            self.quantity.reduce: self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "subjects": self.subjects,
            "missing": self.missing,
            "unit": self.quantity.unit,
            "better": self.quantity.better,
        }


def reduce_rows(rows: Sequence[ScoreRow], scores: Mapping[str, Quantity]) -> dict[str, dict[str, Any]]:
    """Every score over all rows, by name, as JSON holds it; scores that apply to no row are left out."""
    found = {}
    for name, quantity in scores.items():
        have = [row for row in rows if name in row.scores]
        if have:
            one = reduced([row.scores[name] for row in have], quantity, subjects=[row.subject for row in have])
            found[name] = one.written()
    return found


def reduced(values: Sequence[float | None], quantity: Quantity, *, subjects: Sequence[str]) -> Reduced:
    """One score over many images.

    Args:
        values: Of each image; ``None``: it could not be measured.
        quantity: What the score is.
        subjects: Whom each image shows; images of one name are drawn together.
    """
    pairs = [(value, subject) for value, subject in zip(values, subjects, strict=True) if value is not None]
    known = np.array([value for value, _ in pairs], dtype=np.float64)
    place = {name: number for number, name in enumerate(dict.fromkeys(subject for _, subject in pairs))}
    cluster = np.array([place[subject] for _, subject in pairs], dtype=np.int64)
    low, high = _interval(known, cluster, len(place), quantity)
    middle = np.mean if quantity.reduce == "mean" else np.median
    return Reduced(
        value=float(middle(known)) if pairs else None,
        low=low,
        high=high,
        n=len(pairs),
        subjects=len(place),
        missing=len(values) - len(pairs),
        quantity=quantity,
    )


def _interval(
    values: Float[np.ndarray, " n"], cluster: Int[np.ndarray, " n"], clusters: int, quantity: Quantity
) -> tuple[float | None, float | None]:
    if clusters < 2:
        return None, None
    if np.all(values == values[0]):
        return float(values[0]), float(values[0])
    statistic = _means if quantity.reduce == "mean" else _medians
    drawn = np.concatenate([statistic(values, cluster, times) for times in _resamples(clusters, len(values))])
    low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def _resamples(clusters: int, images: int) -> Iterator[Int[np.ndarray, "r c"]]:
    """How often each cluster is drawn, in pieces of the resamples."""
    draw = np.random.default_rng(SEED)
    size = max(AT_ONCE // max(clusters, images), 1)
    for start in range(0, RESAMPLES, size):
        count = min(size, RESAMPLES - start)
        chosen = draw.integers(0, clusters, (count, clusters))
        chosen += np.arange(count)[:, None] * clusters
        yield np.bincount(chosen.ravel(), minlength=count * clusters).reshape(count, clusters)


def _means(
    values: Float[np.ndarray, " n"], cluster: Int[np.ndarray, " n"], times: Int[np.ndarray, "r c"]
) -> Float[np.ndarray, " r"]:
    """Sums of the drawn clusters over their counts."""
    weights = times.astype(np.float64)
    return (weights @ np.bincount(cluster, weights=values)) / (weights @ np.bincount(cluster))


def _medians(
    values: Float[np.ndarray, " n"], cluster: Int[np.ndarray, " n"], times: Int[np.ndarray, "r c"]
) -> Float[np.ndarray, " r"]:
    """The value, or the middle of the two values, in the middle of all drawn images."""
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(times[:, cluster[order]], axis=1)  # images drawn up to each value
    total = upto[:, -1:]
    lower, upper = ((upto > half).argmax(axis=1) for half in ((total - 1) // 2, total // 2))
    return (values[order][lower] + values[order][upper]) / 2
