"""Text and pictures on a sheet."""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from subjectgen.runner.reports.embedding import opened

Box = tuple[int, int, int, int]
"""Left, top, width, height."""
INK, SOFT, PAPER = "#1d2430", "#5b6472", "#ffffff"


@functools.cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font that has Greek and Cyrillic letters too, and comes with matplotlib."""
    name = f"DejaVuSans{'-Bold' * bold}.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return round(1.3 * size)


def wrapped(text: str, size: int, width: int, *, bold: bool = False, lines: int = 2) -> list[str]:
    """Text on lines that fit into a width; what is left over of the last ends in dots."""
    face, found = font(size, bold=bold), [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if found[-1] and face.getlength(longer) > width:
            found.append(word)
        else:
            found[-1] = longer
    cut, found = len(found) > lines, found[:lines]
    last = found[-1]
    while last and face.getlength(f"{last}…" if cut else last) > width:
        last, cut = last[:-1], True
    return [*found[:-1], f"{last}…" if cut else last]


def write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: list[str], size: int, *, bold: bool = False,
    ink: str = INK,
) -> None:  # fmt: skip
    """Lines below each other."""
    for number, line in enumerate(lines):
        draw.text((corner[0], corner[1] + number * line_height(size)), line, fill=ink, font=font(size, bold=bold))


def paste(sheet: Image.Image, path: Path, box: Box) -> None:
    """A picture as large as it fits into a box, at its top left."""
    left, top, width, height = box
    picture = opened(path)
    scale = min(width / picture.width, height / picture.height)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(path) as file:
        return file.size
