"""The page that says what was reached, from all JSON files of a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from subjectgen.core.files import atomic_write


def write_summary(folder: Path) -> str:
    """Write ``<folder>.md`` beside the folder, and return it."""
    files = sorted(folder.glob("*.json"))
    records = sorted(
        (json.loads(path.read_text(encoding="utf-8")) for path in files), key=lambda one: (one["part"], one["label"])
    )
    text = "\n".join(lines(records)) + "\n"
    with atomic_write(folder.with_suffix(".md")) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return text


def lines(records: list[dict[str, Any]]) -> Iterator[str]:
    """The page."""
    yield "# Full size on a GPU, random weights"
    yield ""
    yield "Written by `nox -s gpu` from the JSON files beside this page, which hold more. Rates count 2 operations per"
    yield "multiplication by the formulas of `subjectgen plan`; shares are of the bf16 matrix product measured in the"
    yield "same run. `docs/how-to/run-on-a-gpu.md` says what the parts are."
    for record in records:
        yield ""
        label = f" ({record['label']})" if record["label"] else ""
        yield f"## {record['part']}{label}: {record['status']}"
        yield ""
        yield from about(record)
        if "reason" in record:
            yield f"{record['reason']}"
        yield from results(record)


def about(record: dict[str, Any]) -> Iterator[str]:
    """Where and how."""
    machine, peak = record["machine"], record["peak"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    driver = f", driver {machine['driver']}" if machine.get("driver") else ""
    where = machine.get("gpu") or f"{machine['processor']}, {machine['cores']} cores, no GPU"
    yield f"    {record['command']}"
    yield ""
    yield (
        f"{where}{driver}; {versions}; seed {record['seed']}, commit {record['commit']}; peak "
        f"{peak['teraflops']:.3g} TFLOP/s, copy {peak['terabytes_per_second']:.3g} TB/s; {record['seconds']:g} s."
    )
    for name, value in record.get("settings", {}).items():
        yield f"- {name}: {value}"
    yield ""


def results(record: dict[str, Any]) -> Iterator[str]:
    """Targets, then every table of the results."""
    if record.get("targets"):
        yield from table([{**one, "reached": _reached(one["reached"])} for one in record["targets"]])
    for name, value in record.get("results", {}).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{name.replace('_', ' ')}:"
            yield ""
            yield from table([flat(row) for row in value])
        elif isinstance(value, list) and value:
            yield f"{name.replace('_', ' ')}:"
            yield ""
            yield from (f"- {line}" for line in value)
            yield ""
        elif isinstance(value, int | float | str):
            yield f"{name.replace('_', ' ')}: {_cell(name, value)}"
            yield ""


def flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values as columns; a dot between names."""
    columns: dict[str, Any] = {}
    for name, value in row.items():
        columns |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return columns


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown; a column for every name."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield f"| {' | '.join(name.replace('_', ' ') for name in names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(_cell(name, row.get(name)) for name in names)} |"
    yield ""


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("bytes"):
        return f"{value / 1e9:.2f} GB"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def _reached(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not measured"}[value]
