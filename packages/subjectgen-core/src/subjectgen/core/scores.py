"""What a metric's numbers are: unit, range, direction, and how rows become one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Row: TypeAlias = Mapping[str, float | None]
"""What a metric says of one image, by score. ``None``: it could not be measured, which is counted and reported; a score
that does not apply to the image is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What one score is."""

    unit: str = ""
    """Such as ``share``, ``cosine`` or ``degrees``; ``share`` is shown in percent."""
    low: float | None = None
    """Least possible value; ``None``: no limit."""
    high: float | None = None
    """Greatest possible value."""
    better: Literal["higher", "lower", "none"] = "higher"
    """Which direction is good; ``none``: a description."""
    reduce: Literal["mean", "median"] = "mean"
    """How rows become one number."""
    meaning: str = ""
    """One line for tables."""


SHARE = Quantity(unit="share", low=0.0, high=1.0)
"""How often something holds; more is better."""
