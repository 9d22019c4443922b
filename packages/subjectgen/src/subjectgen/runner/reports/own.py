"""A page for somebody's own picture: every prompt under every variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from subjectgen.runner.reports.embedding import embedded, enlarged
from subjectgen.runner.reports.environment import ENVIRONMENT, today, write_text
from subjectgen.runner.reports.wording import title


def write_own_page(
    out: Path,
    references: Sequence[Path],
    prompts: Sequence[str],
    made: Mapping[str, Sequence[Path]],
    *,
    titles: Mapping[str, str],
    command: str,
) -> list[Path]:
    """Write ``index.html``; returns the files.

    Args:
        out: Folder.
        references: The pictures.
        prompts: What was asked for.
        made: Pictures by variant, in the order of the prompts.
        titles: What variants are called.
        command: How the page was made.
    """
    text = ENVIRONMENT.get_template("own.html").render(
        command=command,
        date=today(),
        shown={
            "references": [enlarged(path, side=512) for path in references],
            "titles": [title(name, titles) for name in made],
            "shots": [
                {
                    "prompt": prompt,
                    "pictures": [embedded(pictures[number], limit=512, exact=True) for pictures in made.values()],
                }
                for number, prompt in enumerate(prompts)
            ],
        },
    )
    write_text(out / "index.html", text)
    return [out / "index.html"]
