"""Names and numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from subjectgen.runner.evaluation.wording import number, value


def title(name: str, titles: Mapping[str, str]) -> str:
    """What a variant or score is called: its title, else its name with spaces."""
    return titles.get(name) or name.replace("_", " ")


def shown(score: Mapping[str, Any] | None) -> str:
    """A score's number; says so if nothing could be measured."""
    if score is None:
        return ""
    found = value(score)
    return "not measured" if found is None else number(found, score["unit"])


def interval(score: Mapping[str, Any] | None) -> str:
    """Its interval; the unit is said beside it."""
    if score is None or score["low"] is None:
        return ""
    low, high = (number(score[end], score["unit"]).removesuffix(score["unit"]).strip() for end in ("low", "high"))
    return f"{low.removesuffix('%')} to {high}"


def stands_on(score: Mapping[str, Any]) -> str:
    """How many images of how many subjects a score stands on."""
    missing = f", {score['missing']} not measured" if score["missing"] else ""
    return f"n = {score['n']} images of {score['subjects']} subjects{missing}"


def better(score: Mapping[str, Any]) -> str:
    """Which direction is good, in words."""
    return {"higher": "higher is better", "lower": "lower is better"}.get(score["better"], "")
