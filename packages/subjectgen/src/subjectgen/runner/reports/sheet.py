"""A comparison as one picture: references, then every prompt under every variant."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from subjectgen.runner.reports.results import Result

ROWS, CELL, HEADER = 8, 96, 24


def contact_sheet(result: Result, *, rows: int = ROWS) -> Image.Image:
    """Rows: samples with the same references; columns: the references, then each prompt under each variant."""
    groups = result.by_reference()
    shown = groups[:: max(len(groups) // rows, 1)][:rows]
    variants = list(result.rows)
    cell = _cell(result.picture(variants[0], shown[0][0]))
    references = max(len(result.references(group[0])) for group in shown)
    prompts = max(map(len, shown))
    width = references * CELL + prompts * len(variants) * cell[0]
    sheet = Image.new("RGB", (width, len(shown) * CELL + HEADER), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 6), "reference" + "s" * (references > 1), fill="black")
    for number, name in enumerate(variants):
        draw.text((references * CELL + number * prompts * cell[0] + 4, 6), name.replace("_", " "), fill="black")
    texts = result.prompts()
    for place, group in enumerate(shown):
        top = HEADER + place * CELL
        for number, picture in enumerate(result.references(group[0])):
            _paste(sheet, picture, (number * CELL, top), (CELL, CELL))
        for number, name in enumerate(variants):
            for turn, index in enumerate(group):
                corner = (references * CELL + (number * prompts + turn) * cell[0], top)
                _paste(sheet, result.picture(name, index), corner, cell)
                _caption(draw, texts[index], corner, cell)
    return sheet


def _cell(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return round(CELL * opened.width / opened.height), CELL


def _paste(sheet: Image.Image, picture: Path, corner: tuple[int, int], size: tuple[int, int]) -> None:
    with Image.open(picture) as opened:
        fitted = opened.convert("RGB")
        fitted.thumbnail(size, Image.Resampling.LANCZOS)
        if fitted.size != size and opened.width / opened.height == size[0] / size[1]:
            fitted = opened.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    sheet.paste(fitted, (corner[0] + (size[0] - fitted.width) // 2, corner[1] + (size[1] - fitted.height) // 2))


def _caption(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], cell: tuple[int, int]) -> None:
    """The prompt inside its cell, on as many lines as it takes."""
    font = ImageFont.load_default(9)
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and draw.textlength(longer, font=font) > cell[0] - 8:
            lines, line = [*lines, line], word
        else:
            line = longer
    lines = [*lines, line][-3:]
    where = (corner[0] + 4, corner[1] + cell[1] - 4 - 11 * len(lines))
    draw.multiline_text(
        where, "\n".join(lines), fill="white", stroke_width=1, stroke_fill="black", font=font, spacing=1
    )
