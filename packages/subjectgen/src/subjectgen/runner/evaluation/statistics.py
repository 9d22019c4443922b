"""From rows to numbers: a mean or median with its interval, and how many images it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from subjectgen.core import Quantity
from subjectgen.runner.evaluation.rows import ScoreRow

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """One score over many images."""

    value: float | None
    """``None`` if no image could be measured."""
    low: float | None
    """95 % bootstrap interval over images (percentiles, 2,000 resamples, a fixed seed); ``None`` for one image."""
    high: float | None
    n: int
    """Images that were measured."""
    missing: int
    """Images that could not be measured."""
    unit: str
    better: str


def reduce_rows(rows: Sequence[ScoreRow], scores: Mapping[str, Quantity]) -> dict[str, dict[str, Any]]:
    """Every score over all rows, by name, as JSON holds it; scores that apply to no row are left out."""
    found = {}
    for name, quantity in scores.items():
        values = [row.scores[name] for row in rows if name in row.scores]
        if values:
            found[name] = asdict(reduced(values, quantity))
    return found


def reduced(values: Sequence[float | None], quantity: Quantity) -> Reduced:
    """One score over many images."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    statistic: Any = {"mean": np.mean, "median": np.median}[quantity.reduce]
    low, high = _interval(known, statistic)
    return Reduced(
        value=float(statistic(known)) if len(known) else None,
        low=low,
        high=high,
        n=len(known),
        missing=len(values) - len(known),
        unit=quantity.unit,
        better=quantity.better,
    )


def _interval(values: Any, statistic: Any) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None
    if np.all(values == values[0]):
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,),
        statistic,
        vectorized=True,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
