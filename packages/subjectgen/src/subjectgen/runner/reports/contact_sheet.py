"""A comparison as one picture and one page: references, then every prompt under every variant."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from subjectgen.core import Sample
from subjectgen.core.images import to_pil
from subjectgen.runner.comparing import Compared

ROWS, CELL, HEADER = 8, 96, 24
STYLE = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left}img{max-width:100%}"


def contact_sheet(compared: Compared) -> Image.Image:
    """Rows: samples with the same references; columns: the references, then each prompt under each variant."""
    rows = _rows(compared.samples)
    shown = rows[:: max(len(rows) // ROWS, 1)][:ROWS]
    pictures = next(iter(compared.images.values()))
    cell = (round(CELL * pictures.shape[-1] / pictures.shape[-2]), CELL)
    references = max(len(compared.samples[row[0]].references) for row in shown)
    prompts = max(map(len, shown))
    width = references * CELL + prompts * len(compared.images) * cell[0]
    sheet = Image.new("RGB", (width, len(shown) * CELL + HEADER), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 6), "reference" + "s" * (references > 1), fill="black")
    for number, name in enumerate(compared.images):
        draw.text((references * CELL + number * prompts * cell[0] + 4, 6), name.replace("_", " "), fill="black")
    for place, row in enumerate(shown):
        top = HEADER + place * CELL
        for number, reference in enumerate(compared.samples[row[0]].references):
            _paste(sheet, reference.image, (number * CELL, top), (CELL, CELL))
        for number, images in enumerate(compared.images.values()):
            for turn, index in enumerate(row):
                corner = (references * CELL + (number * prompts + turn) * cell[0], top)
                _paste(sheet, images[index], corner, cell)
                words = compared.samples[index].prompt.removeprefix("the toy ")
                where = (corner[0] + 4, corner[1] + CELL - 14)
                draw.text(where, words, fill="white", stroke_width=1, stroke_fill="black")
    return sheet


def page(compared: Sequence[tuple[Compared, str]], schedule: Mapping[str, Any]) -> str:
    """An HTML page with every comparison: its picture and its scores."""
    parts = "".join(f"<h2>{one.name}</h2><img src={file} alt='contact sheet'>{_table(one)}" for one, file in compared)
    settings = html.escape(json.dumps(dict(schedule), indent=2))
    return (
        f"<!doctype html><meta charset=utf-8><title>subjectgen demo</title><style>{STYLE}</style>"
        "<h1>subjectgen demo</h1><p>The same samples and seeds under every variant. The judge's own accuracy on real "
        "renders stands beside its verdicts (<code>*_judge</code>). Sensitivity: change of the image when one branch "
        f"alone sees another subject's reference.</p>{parts}<h2>Schedule</h2><pre>{settings}</pre>"
    )


def _rows(samples: Sequence[Sample]) -> list[list[int]]:
    """Indices of neighbours that share their references."""

    def key(index: int) -> tuple[int, ...]:
        return tuple(id(reference.image) for reference in samples[index].references)

    return [list(group) for _, group in groupby(range(len(samples)), key)]


def _paste(sheet: Image.Image, image: Float[Tensor, "3 h w"], corner: tuple[int, int], size: tuple[int, int]) -> None:
    sheet.paste(to_pil(image).resize(size, Image.Resampling.LANCZOS), corner)


def _table(compared: Compared) -> str:
    """Scores by variant; sensitivity a line per branch."""
    flat = {name: _flat(scores) for name, scores in compared.scores.items()}
    heads = "".join(f"<th>{name}</th>" for name in flat)
    keys = next(iter(flat.values()))
    rows = "".join(
        f"<tr><th>{key}</th>" + "".join(f"<td>{scores[key]:.3f}</td>" for scores in flat.values()) + "</tr>"
        for key in keys
    )
    return f"<table><tr><th></th>{heads}</tr>{rows}</table>"


def _flat(scores: Mapping[str, Any]) -> dict[str, float]:
    plain = {key: value for key, value in scores.items() if key != "sensitivity"}
    return plain | {f"sensitivity to {name}": value for name, value in scores.get("sensitivity", {}).items()}
