"""Rows of scores: one JSON line per image, appended as they are measured, merged by concatenating."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subjectgen.core import InputError

FILE = "rows.jsonl"


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """What was measured of one image."""

    key: str
    """Of its sample."""
    seed: int
    prompt: str
    image: str
    """File, relative to the folder of the rows."""
    metrics: str
    """Identity of the metrics that measured it."""
    scores: Mapping[str, float | None]
    """By name; ``None``: could not be measured."""
    references: Sequence[str] = ()
    """Files of its reference pictures, relative to the comparison's folder."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of its sample."""

    @property
    def subject(self) -> str:
        """Whom the image shows, by the facts of its sample; without such facts, the sample's own key."""
        return subject_of(self.key, self.facts)


def subject_of(key: str, facts: Mapping[str, Any]) -> str:
    """Whom a sample shows: its fact ``subject``, or all its ``subjects``; without either, nobody else: its key."""
    several = facts.get("subjects")
    if facts.get("subject") is not None:
        return str(facts["subject"])
    return " + ".join(sorted(map(str, several))) if isinstance(several, list) and several else key


def append(folder: Path, rows: Sequence[ScoreRow]) -> None:
    """Add rows to the folder's file, in one write."""
    text = "".join(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in rows)
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(text)


def read(folder: Path) -> list[ScoreRow]:
    """All rows of a folder; a last line that a kill cut off is left out.

    Raises:
        InputError: A damaged line before the last; names file and line.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            rows.append(ScoreRow(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if number == len(lines) - 1:
                break
            raise InputError(f"{path}:{number + 1}: damaged ({error}); expected a row of scores") from None
    return rows


def checked(row: Mapping[str, Any], known: Mapping[str, Any], who: str) -> dict[str, float | None]:
    """A metric's row as plain numbers.

    Raises:
        InputError: A score that the metric does not announce.
    """
    unknown = sorted(row.keys() - known.keys())
    if unknown:
        raise InputError(f"{who}: gives a score {unknown[0]!r} that its `scores` do not name")
    values = {name: None if value is None else float(value) for name, value in row.items()}
    return {name: None if value is None or math.isnan(value) else value for name, value in values.items()}
