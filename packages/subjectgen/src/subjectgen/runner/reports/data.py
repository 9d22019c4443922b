"""A page that shows what is in data sets: counts, sizes, faults with their examples, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from subjectgen.core.json_files import write_json
from subjectgen.runner.reports.embedding import embedded_picture
from subjectgen.runner.reports.environment import ENVIRONMENT, today, write_text

Picture = tuple[str, Image.Image]
"""What it is, and the picture."""
Row = tuple[str, str, Sequence[Picture]]
"""Key, prompt and pictures of a sample."""


def write_data_page(
    out: Path, reports: Sequence[Mapping[str, Any]], samples: Sequence[Sequence[Row]], *, command: str
) -> list[Path]:
    """Write ``report.json`` and ``index.html``; returns the files.

    Args:
        out: Folder, which need not exist.
        reports: What was found in each data set, as plain values.
        samples: Of each, the samples that are shown.
        command: How the page was made.
    """
    write_json(out / "report.json", {"datasets": list(reports)})
    sections = [
        {**report, "rows": [_row(*sample) for sample in shown]} for report, shown in zip(reports, samples, strict=True)
    ]
    page = ENVIRONMENT.get_template("data.html").render(command=command, date=today(), sections=sections)
    write_text(out / "index.html", page)
    return [out / "index.html", out / "report.json"]


def _row(key: str, prompt: str, pictures: Sequence[Picture]) -> dict[str, Any]:
    return {
        "key": key,
        "prompt": prompt,
        "pictures": [{"what": what, "data": embedded_picture(picture)} for what, picture in pictures],
    }
