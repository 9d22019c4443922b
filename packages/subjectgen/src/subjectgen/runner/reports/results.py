"""What an evaluation left in a folder, read back: variants, scores, rows, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from subjectgen.core.json_files import read_json

COMPARISON, ROWS = "comparison.json", "rows.jsonl"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One comparison."""

    folder: Path
    facts: Mapping[str, Any]
    """What ``comparison.json`` holds."""
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    """By variant, in the order of the samples; variants that failed have none."""

    @property
    def name(self) -> str:
        """Of the comparison."""
        return str(self.facts["name"])

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        """What each variant gave."""
        found: Mapping[str, Mapping[str, Any]] = self.facts["variants"]
        return found

    def picture(self, variant: str, number: int) -> Path:
        """The image of one sample."""
        return self.folder / variant / self.rows[variant][number]["image"]

    def references(self, number: int) -> list[Path]:
        """Reference pictures of one sample."""
        return [self.folder / name for name in self._any_rows()[number]["references"]]

    def prompts(self) -> list[str]:
        """Of all samples."""
        return [row["prompt"] for row in self._any_rows()]

    def by_reference(self) -> list[list[int]]:
        """Numbers of neighbouring samples that share their references."""
        rows = self._any_rows()
        return [list(group) for _, group in groupby(range(len(rows)), lambda number: rows[number]["references"])]

    def _any_rows(self) -> Sequence[Mapping[str, Any]]:
        return next(iter(self.rows.values()), [])


def read_result(folder: Path) -> Result:
    """Read a comparison's folder."""
    facts = read_json(folder / COMPARISON)
    good = [name for name, found in facts["variants"].items() if "failed" not in found]
    return Result(folder=folder, facts=facts, rows={name: _rows(folder / name) for name in good})


def _rows(folder: Path) -> list[Mapping[str, Any]]:
    """Of the metrics that were used last; a later row of an image replaces an earlier one."""
    lines = [json.loads(line) for line in (folder / ROWS).read_text(encoding="utf-8").splitlines() if line]
    last = lines[-1]["metrics"] if lines else ""
    found = {(line["key"], line["seed"]): line for line in lines if line["metrics"] == last}
    return sorted(found.values(), key=lambda line: line["seed"])
