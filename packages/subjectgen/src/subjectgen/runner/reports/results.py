"""What an evaluation left in a folder, read back: variants, scores, rows, pictures, strips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from subjectgen.core.json_files import read_json
from subjectgen.runner.evaluation.wording import failure
from subjectgen.runner.reports.wording import title

COMPARISON, ROWS, STRIP = "comparison.json", "rows.jsonl", "strip.json"


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A few samples under several values of a setting."""

    folder: Path
    facts: Mapping[str, Any]
    """What ``strip.json`` holds."""

    @property
    def comparison(self) -> str:
        """On whose sheet it stands."""
        return str(self.facts["comparison"])

    @property
    def prompts(self) -> list[str]:
        """Of its samples."""
        return [sample["prompt"] for sample in self.facts["samples"]]

    @property
    def failed(self) -> dict[str, str]:
        """Why values have no pictures, by their labels."""
        return {value["label"]: value["failed"] for value in self.facts["values"] if "failed" in value}

    def references(self, sample: int) -> list[Path]:
        """Reference pictures of one of its samples."""
        return [self.folder / name for name in self.facts["samples"][sample]["references"]]

    def pictures(self, sample: int) -> list[tuple[str, Path]]:
        """Labels and pictures of one of its samples."""
        good = [value for value in self.facts["values"] if "failed" not in value]
        return [(value["label"], self.folder / value["images"][sample]) for value in good]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One comparison."""

    folder: Path
    facts: Mapping[str, Any]
    """What ``comparison.json`` holds."""
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    """By variant, in the order of the samples; variants that failed have none."""
    strips: Sequence[Strip] = ()

    @property
    def name(self) -> str:
        """Of the comparison."""
        return str(self.facts["name"])

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        """What each variant gave."""
        found: Mapping[str, Mapping[str, Any]] = self.facts["variants"]
        return found

    @property
    def scores(self) -> dict[str, Mapping[str, Any]]:
        """Of the variants that did not fail."""
        return {name: found for name, found in self.variants.items() if failure(found) is None}

    @property
    def failed(self) -> dict[str, str]:
        """Why variants have no scores, by their titles."""
        found = {self.title(name): failure(one) for name, one in self.variants.items()}
        return {name: why for name, why in found.items() if why is not None}

    def title(self, variant: str) -> str:
        """What a variant is called."""
        return title(variant, self.facts["titles"])

    def picture(self, variant: str, number: int) -> Path:
        """The image of one sample."""
        return self.folder / variant / self.rows[variant][number]["image"]

    def references(self, number: int) -> list[Path]:
        """Reference pictures of one sample."""
        return [self.folder / name for name in self._any_rows()[number]["references"]]

    def prompt(self, number: int) -> str:
        """Of one sample."""
        return str(self._any_rows()[number]["prompt"])

    def groups(self) -> list[list[int]]:
        """Numbers of neighbouring samples that share their references; those that are seen best come first."""
        rows = self._any_rows()
        found = [list(group) for _, group in groupby(range(len(rows)), lambda number: rows[number]["references"])]
        return sorted(found, key=lambda group: turned(rows[group[0]].get("facts", {})))

    @property
    def seen(self) -> bool:
        """Whether it is known from where references see their subjects."""
        return any(turned(row.get("facts", {})) for row in self._any_rows())

    def _any_rows(self) -> Sequence[Mapping[str, Any]]:
        return next(iter(self.rows.values()), [])


def read_result(folder: Path, strips: Sequence[Strip] = ()) -> Result:
    """Read a comparison's folder; ``strips``: all that there are, of which it takes its own."""
    facts = read_json(folder / COMPARISON)
    good = [name for name, found in facts["variants"].items() if failure(found) is None]
    own = [strip for strip in strips if strip.comparison == facts["name"]]
    return Result(folder=folder, facts=facts, rows={name: _rows(folder / name) for name in good}, strips=own)


def read_strip(folder: Path) -> Strip:
    """Read a strip's folder."""
    return Strip(folder=folder, facts=read_json(folder / STRIP))


def turned(facts: Mapping[str, Any]) -> float:
    """By how many degrees a sample's references are turned away, at most; 0 where its facts say nothing of it.

    A subject shows most of what is its own from the front, which is azimuth 0.
    """
    references = facts.get("references")
    shown = [one for one in references if isinstance(one, Mapping)] if isinstance(references, list) else []
    angles = [one["azimuth"] for one in shown if isinstance(one.get("azimuth"), int | float)]
    return max((abs((angle + 180) % 360 - 180) for angle in angles), default=0.0)


def _rows(folder: Path) -> list[Mapping[str, Any]]:
    """Of the metrics that were used last; a later row of an image replaces an earlier one."""
    lines = [json.loads(line) for line in (folder / ROWS).read_text(encoding="utf-8").splitlines() if line]
    last = lines[-1]["metrics"] if lines else ""
    found = {(line["key"], line["seed"]): line for line in lines if line["metrics"] == last}
    return sorted(found.values(), key=lambda line: line["seed"])
