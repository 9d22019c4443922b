"""A page for somebody's own picture: every prompt under every variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from subjectgen.runner.reports.page import ENVIRONMENT, embedded, today, write_text


def write_own_page(
    out: Path, references: Sequence[Path], prompts: Sequence[str], made: Mapping[str, Sequence[Path]], *, command: str
) -> list[Path]:
    """Write ``index.html``; returns the files. ``made``: pictures by variant, in the order of the prompts."""
    text = ENVIRONMENT.get_template("own.html").render(
        command=command,
        date=today(),
        references=[embedded(path, limit=512) for path in references],
        variants=list(made),
        rows=[
            {"prompt": prompt, "pictures": [embedded(pictures[number]) for pictures in made.values()]}
            for number, prompt in enumerate(prompts)
        ],
    )
    write_text(out / "index.html", text)
    return [out / "index.html"]
