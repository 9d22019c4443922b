"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from subjectgen.runner.evaluation.wording import number


def shown(score: Mapping[str, Any] | None) -> str:
    """A score's value; says so if nothing could be measured."""
    if score is None:
        return ""
    return "not measured" if score["value"] is None else number(score["value"], score["unit"])


def interval(score: Mapping[str, Any] | None) -> str:
    """Its interval, and on how many images it stands."""
    if score is None or score["low"] is None:
        return ""
    missing = f", {score['missing']} not measured" if score["missing"] else ""
    return f"[{number(score['low'], score['unit'])}, {number(score['high'], score['unit'])}], n = {score['n']}{missing}"


def better(score: Mapping[str, Any]) -> str:
    """Which direction is good, in words."""
    return {"higher": "higher is better", "lower": "lower is better"}.get(score["better"], "")
