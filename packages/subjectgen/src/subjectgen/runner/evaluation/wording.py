"""Scores as files hold them, in words: one number, one variant in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from subjectgen.core import nearest

SENSITIVITY = "sensitivity_"
"""How scores begin that say what one branch changes; the branch follows."""


def value(score: Mapping[str, Any]) -> float | None:
    """The number of a score, whichever way its rows were reduced."""
    found: float | None = score["mean"] if "mean" in score else score["median"]
    return found


def failure(found: Mapping[str, Any]) -> str | None:
    """Why a variant has no scores; ``None`` if it has."""
    why = found.get("failed")
    return why if isinstance(why, str) else None


def headline(chosen: Sequence[str] | None, known: Iterable[str], scores: Mapping[str, Any]) -> list[str]:
    """Scores that are told first: chosen ones, or those of known pictures, or all but sensitivities."""
    found = list(chosen) if chosen else [name for name in scores if name in set(known)]
    return found or [name for name in scores if not is_sensitivity(name)]


def is_sensitivity(name: str) -> bool:
    """Whether a score says what a branch or another seed changes."""
    return name.startswith(SENSITIVITY) or name == "seed_change"


def line(variant: str, scores: Mapping[str, Any], known: Mapping[str, Any], chosen: Sequence[str] | None = None) -> str:
    """The headline's scores, each with its interval, and what each branch changes."""
    parts = [_score(name, scores, known) for name in headline(chosen, known, scores)]
    changes = {name.removeprefix(SENSITIVITY): value(scores[name]) for name in scores if name.startswith(SENSITIVITY)}
    told = ", ".join(f"{branch} {change:.3f}" for branch, change in changes.items())
    return f"{variant}: {', '.join(parts)}{f'; sensitivity {told}' if told else ''}"


def number(value: float, unit: str) -> str:
    """Shares in percent, others with their unit."""
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:.1f} {unit}" if unit == "degrees" else f"{value:.3f}{f' {unit}' if unit else ''}"


def _score(name: str, scores: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    if name not in scores:  # hours of pictures are not lost for a name that is not there
        return f"no score {name!r}{nearest(name, scores)}"
    score = scores[name]
    unit, missing, found = score["unit"], score["missing"], value(score)
    if found is None:
        return f"{name}: none of {missing} could be measured"
    text = f"{name} {number(found, unit)}"
    if score["low"] is not None:
        text += f" [{number(score['low'], unit)}, {number(score['high'], unit)}]"
    truth = value(known[name]) if name in known else None
    if truth is not None:
        text += f" (on known pictures {number(truth, unit)})"
    return text + (f" ({missing} not measured)" if missing else "")
