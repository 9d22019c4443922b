"""One variant of a comparison in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from subjectgen.core import nearest


def line(
    variant: str, found: Mapping[str, Any], calibration: Mapping[str, float], headline: Sequence[str] | None = None
) -> str:
    """Chosen scores, or those that are calibrated, or all; each with its interval."""
    scores = found["scores"]
    chosen = headline or [name for name in scores if name in calibration] or list(scores)
    parts = [_score(name, scores, calibration) for name in chosen]
    changes = ", ".join(f"{branch} {value:.3f}" for branch, value in found.get("sensitivity", {}).items())
    return f"{variant}: {', '.join(parts)}{f'; sensitivity {changes}' if changes else ''}"


def number(value: float, unit: str) -> str:
    """Shares in percent, others with their unit."""
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:.1f} {unit}" if unit == "degrees" else f"{value:.3f}{f' {unit}' if unit else ''}"


def _score(name: str, scores: Mapping[str, Any], calibration: Mapping[str, float]) -> str:
    if name not in scores:  # hours of pictures are not lost for a name that is not there
        return f"no score {name!r}{nearest(name, scores)}"
    score = scores[name]
    unit, missing = score["unit"], score["missing"]
    if score["value"] is None:
        return f"{name}: none of {missing} could be measured"
    text = f"{name} {number(score['value'], unit)}"
    if score["low"] is not None:
        text += f" [{number(score['low'], unit)}, {number(score['high'], unit)}]"
    if name in calibration:
        text += f" (on known pictures {number(calibration[name], unit)})"
    return text + (f" ({missing} not measured)" if missing else "")
