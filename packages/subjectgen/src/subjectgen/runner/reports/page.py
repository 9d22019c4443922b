"""Comparisons as one self-contained page, with a contact sheet and all scores beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from subjectgen.core.files import atomic_write
from subjectgen.core.json_files import write_json
from subjectgen.runner.reports.embedding import embedded, enlarged
from subjectgen.runner.reports.environment import ENVIRONMENT, today, write_text
from subjectgen.runner.reports.results import Result, Strip, read_result, read_strip
from subjectgen.runner.reports.sheet import GROUPS, contact_sheet
from subjectgen.runner.reports.tables import all_scores, first_scores, most

KNOWN_PICTURES = "known_pictures"
REFERENCE, PICTURE = 288, 256
"""Pixels of the longer side of a reference that is shown large, and of other pictures at most."""


def write_page(out: Path, folders: Sequence[Path], *, strips: Sequence[Path] = (), command: str) -> list[Path]:
    """Write sheets, ``scores.json`` and ``index.html``; returns the files.

    Args:
        out: Folder, which need not exist.
        folders: Of comparisons.
        strips: Folders of strips; each stands with its comparison.
        command: How the page was made.
    """
    beside = [read_strip(folder) for folder in strips]
    results = [read_result(folder, beside) for folder in folders]
    sheets = [_write_sheet(out, result, len(results)) for result in results if result.rows]
    write_json(out / "scores.json", _scores(results))
    first = results[0].facts
    text = ENVIRONMENT.get_template("comparisons.html").render(
        title=first["experiment"],
        description=first["description"],
        command=command,
        date=today(),
        versions=", ".join(f"{name} {number}" for name, number in first["plugins"].items()),
        results=[_described(result) for result in results],
    )
    write_text(out / "index.html", text)
    return [*sheets, out / "index.html", out / "scores.json"]


def _scores(results: Sequence[Result]) -> dict[str, Any]:
    """Scores of all variants in their order, and what metrics give to known pictures."""
    found: dict[str, Any] = {name: one for result in results for name, one in result.variants.items()}
    found[KNOWN_PICTURES] = {name: one for result in results for name, one in result.facts[KNOWN_PICTURES].items()}
    return found


def _write_sheet(out: Path, result: Result, count: int) -> Path:
    path = out / ("sheet.png" if count == 1 else f"sheet-{result.name}.png")
    with atomic_write(path) as unfinished:
        contact_sheet(result).save(unfinished, format="PNG")
    return path


def _described(result: Result) -> dict[str, Any]:
    subjects = list(_subjects(result))
    return {
        "name": result.name,
        "variants": {name: result.title(name) for name in result.scores},
        "failed": result.failed,
        "subjects": subjects[:GROUPS],
        "others": subjects[GROUPS:],
        "seen": result.seen,
        "strips": [_strip(strip) for strip in result.strips],
        "first": first_scores(result),
        "all": all_scores(result),
        "known": bool(result.facts[KNOWN_PICTURES]),
        "most": most(result),
        "schedule": json.dumps(result.facts["schedule"], indent=2),
    }


def _subjects(result: Result) -> Iterator[dict[str, Any]]:
    """Pictures of each subject; those of the first ones are exact, and their references large."""
    for place, group in enumerate(result.groups() if result.rows else ()):
        paths = result.references(group[0])
        large = place < GROUPS
        yield {
            "references": [enlarged(one, side=REFERENCE) if large else embedded(one, limit=PICTURE) for one in paths],
            "titles": [result.title(name) for name in result.rows],
            "shots": [
                {
                    "prompt": result.prompt(index),
                    "pictures": [
                        embedded(result.picture(name, index), limit=PICTURE, exact=large) for name in result.rows
                    ],
                }
                for index in group
            ],
        }


def _strip(strip: Strip) -> dict[str, Any]:
    return {
        "failed": strip.failed,
        "samples": [
            {
                "prompt": prompt,
                "references": [enlarged(path, side=REFERENCE) for path in strip.references(number)],
                "pictures": [
                    (label, embedded(path, limit=PICTURE, exact=True)) for label, path in strip.pictures(number)
                ],
            }
            for number, prompt in enumerate(strip.prompts)
        ],
    }
