"""Templates, and how pages are written."""

from __future__ import annotations

import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from subjectgen.core.files import atomic_write

ENVIRONMENT = Environment(
    loader=PackageLoader("subjectgen.runner.reports"),
    autoescape=select_autoescape(),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def write_text(path: Path, text: str) -> None:
    """Write a page; never half of it."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def today() -> str:
    """Date and time, with the zone."""
    return datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
