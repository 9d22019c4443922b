"""Scores of a comparison as tables: one row per score, one column per variant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from subjectgen.runner.evaluation.wording import headline, value
from subjectgen.runner.reports.results import Result
from subjectgen.runner.reports.wording import better, interval, shown, stands_on, title


def first_scores(result: Result) -> list[dict[str, Any]]:
    """Rows of the scores that stand first."""
    scores = dict.fromkeys(name for found in result.scores.values() for name in found)
    return list(_rows(result, headline(result.facts["headline"], result.facts["known_pictures"], scores)))


def all_scores(result: Result) -> list[dict[str, Any]]:
    """Rows of every score."""
    return list(_rows(result, dict.fromkeys(name for found in result.scores.values() for name in found)))


def most(result: Result) -> str:
    """On what most scores stand, in words; cells of others say so themselves."""
    said = [stands_on(score) for found in result.scores.values() for score in found.values()]
    return max(sorted(set(said)), key=said.count, default="")


def _rows(result: Result, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    usual = most(result)
    for name in names:
        scores = [found.get(name) for found in result.scores.values()]
        known = next((score for score in scores if score), None)
        if known is not None:  # a headline may name what is not there
            truth = result.facts["known_pictures"].get(name)
            yield {
                "name": name,
                "title": title(name, {}),
                "meaning": result.facts["meanings"].get(name, ""),
                "better": better(known),
                "cells": [_cell(score, usual) for score in scores],
                "known": shown(truth),
            }


def _cell(score: Mapping[str, Any] | None, usual: str) -> dict[str, Any]:
    if score is None:
        return {"text": "", "interval": "", "stands_on": "", "bar": None}
    said, found = stands_on(score), value(score)
    bar = None
    if score["unit"] == "share" and found is not None:
        ends = (score["low"], score["high"]) if score["low"] is not None else (found, found)
        bar = {
            name: f"{100 * number:.1f}%" for name, number in zip(("value", "low", "high"), (found, *ends), strict=True)
        }
    return {"text": shown(score), "interval": interval(score), "stands_on": said if said != usual else "", "bar": bar}
