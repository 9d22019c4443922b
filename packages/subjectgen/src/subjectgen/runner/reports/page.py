"""Comparisons as one self-contained page, with a contact sheet and all scores beside it."""

from __future__ import annotations

import base64
import datetime
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from subjectgen.core.files import atomic_write
from subjectgen.core.json_files import write_json
from subjectgen.runner.reports.results import Result, read_result
from subjectgen.runner.reports.sheet import contact_sheet
from subjectgen.runner.reports.wording import better, interval, shown

ENVIRONMENT = Environment(
    loader=PackageLoader("subjectgen.runner.reports"), autoescape=select_autoescape(), trim_blocks=True
)
NOTE = (
    "Each number is over the images that could be measured, with its 95 % bootstrap interval over images. Sensitivity "
    "is the change of the image when one branch alone sees another subject's reference."
)


def write_page(out: Path, folders: Sequence[Path], *, command: str) -> list[Path]:
    """Write sheets, ``scores.json`` and ``index.html`` of comparisons; returns the files."""
    results = [read_result(folder) for folder in folders]
    sheets = {result.name: _write_sheet(out, result, len(results)) for result in results if result.rows}
    scores = {name: found for result in results for name, found in result.variants.items()}
    calibration = {key: value for result in results for key, value in result.facts["calibration"].items()}
    write_json(out / "scores.json", {"variants": scores, "calibration": calibration})
    first = results[0].facts
    text = ENVIRONMENT.get_template("comparisons.html").render(
        title=first["experiment"],
        description=first["description"],
        command=command,
        date=today(),
        versions=", ".join(f"{name} {number}" for name, number in first["plugins"].items()),
        results=[_described(result, sheets.get(result.name)) for result in results],
    )
    write_text(out / "index.html", text)
    return [*sheets.values(), out / "index.html", out / "scores.json"]


def write_text(path: Path, text: str) -> None:
    """Write a page; never half of it."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def today() -> str:
    """Date and time, with the zone."""
    return datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")


def embedded(path: Path, *, limit: int | None = None) -> str:
    """A picture as part of a page; with ``limit``, its longer side has at most so many pixels."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    if limit:
        picture.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    return embedded_picture(picture, "PNG" if limit is None else "WEBP")


def embedded_picture(picture: Image.Image, kind: str) -> str:
    """A picture in memory as part of a page, as PNG or WEBP."""
    content = io.BytesIO()
    picture.save(content, format=kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def _write_sheet(out: Path, result: Result, count: int) -> Path:
    path = out / ("sheet.png" if count == 1 else f"sheet-{result.name}.png")
    with atomic_write(path) as unfinished:
        contact_sheet(result).save(unfinished, format="PNG")
    return path


def _described(result: Result, sheet: Path | None) -> dict[str, Any]:
    good = {name: found for name, found in result.variants.items() if "failed" not in found}
    calibration = result.facts["calibration"]
    return {
        "name": result.name,
        "sheet": sheet and embedded(sheet),
        "variants": list(good),
        "calibrated": bool(calibration),
        "table": [*_scores(good, calibration), *_sensitivities(good)],
        "note": NOTE,
        "failed": {name: found["failed"] for name, found in result.variants.items() if "failed" in found},
        "count": len(next(iter(result.rows.values()), [])),
        "groups": [list(_pictures(result, group)) for group in result.by_reference()],
        "schedule": json.dumps(result.facts["schedule"], indent=2),
    }


def _scores(good: Mapping[str, Any], calibration: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    names = dict.fromkeys(name for found in good.values() for name in found["scores"])
    for name in names:
        scores = [found["scores"].get(name) for found in good.values()]
        known = next(score for score in scores if score)
        cells = [{"value": shown(score), "interval": interval(score)} for score in scores]
        calibrated = shown({**known, "value": calibration[name]}) if name in calibration else ""
        yield {"name": name, "better": better(known), "cells": cells, "calibration": calibrated}


def _sensitivities(good: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = {name: _flat(one) for name, one in good.items()}
    for key in dict.fromkeys(key for one in found.values() for key in one):
        values = [one.get(key) for one in found.values()]
        cells = [{"value": "" if value is None else f"{value:.3f}"} for value in values]
        yield {"name": key, "better": "", "cells": cells, "calibration": ""}


def _flat(found: Mapping[str, Any]) -> dict[str, float]:
    if "sensitivity" not in found:
        return {}
    changes = {f"sensitivity to {name}": value for name, value in found["sensitivity"].items()}
    return {"change by another seed": found["seed_change"], **changes}


def _pictures(result: Result, group: Sequence[int]) -> Iterator[dict[str, str]]:
    for number, path in enumerate(result.references(group[0])):
        yield {"data": embedded(path, limit=128), "caption": f"reference {number + 1}"}
    prompts = result.prompts()
    for index in group:
        for variant in result.rows:
            picture = embedded(result.picture(variant, index), limit=128)
            yield {"data": picture, "caption": f"{prompts[index]} ({variant})"}
