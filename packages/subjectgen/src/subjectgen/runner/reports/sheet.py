"""A comparison as one picture: of each subject the reference, large, and every prompt under every variant; strips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from subjectgen.runner.reports.drawing import PAPER, SOFT, line_height, paste, size_of, wrapped, write
from subjectgen.runner.reports.results import Result, Strip

GROUPS, PROMPTS = 8, 6
"""Subjects, and prompts of each, at most."""
LEAST, MOST = 96, 192
"""Pixels of a picture's height; those of other sizes are scaled."""
LARGE = 2 * LEAST, 3 * LEAST
"""Pixels of a reference's side, at least and at most."""
WIDTH = 1480
"""Pixels of a sheet, about."""
GAP, ROW, MARGIN = 4, 10, 24
"""Pixels between pictures, between their rows, and between subjects."""
TEXT = 14


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes in pixels that all subjects of a sheet share."""

    variants: int
    prompts: int
    references: int
    cell: tuple[int, int]
    """Width and height of a picture."""
    reference: int
    """Side of a reference."""
    caption = line_height(TEXT) + GAP
    """Height of a prompt above its pictures."""

    @classmethod
    def of(cls, result: Result, groups: Sequence[Sequence[int]]) -> Layout:
        """Sizes for these subjects of a comparison."""
        first = groups[0][0]
        width, height = size_of(result.picture(next(iter(result.rows)), first))
        prompts = min(max(map(len, groups)), PROMPTS)
        references = max(len(result.references(group[0])) for group in groups)
        cell = min(max(height, LEAST), MOST) * (2 if prompts == 1 and height < MOST and width <= height else 1)
        room = prompts * (cls.caption + cell + ROW) - cls.caption - ROW
        reference = min(max(room, LARGE[0]), LARGE[1])
        for path in result.references(first)[:1]:  # enlarged by a whole number, nothing is lost or made up
            side = max(size_of(path))
            reference = max(reference // side * side, LARGE[0]) if side < reference else reference
        return cls(
            variants=len(result.rows),
            prompts=prompts,
            references=references,
            cell=(round(cell * width / height), cell),
            reference=reference,
        )

    @property
    def shots(self) -> int:
        """Where pictures begin, right of the references."""
        return self.references * (self.reference + GAP) + (2 * GAP if self.references else 0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a subject."""
        high = self.prompts * (self.caption + self.cell[1] + ROW) - ROW
        return self.shots + self.variants * (self.cell[0] + GAP), max(high, self.caption + self.reference + GAP)


def contact_sheet(result: Result, *, groups: int = GROUPS) -> Image.Image:
    """Subjects, two in a row where they fit; below them the comparison's strips."""
    shown = result.groups()[:groups]
    layout = Layout.of(result, shown)
    columns = 2 if 2 * layout.size[0] + MARGIN <= WIDTH and len(shown) > 1 else 1
    rows = -(-len(shown) // columns)
    titles = [wrapped(result.title(name), TEXT, layout.cell[0], bold=True) for name in result.rows]
    header = max(map(len, titles)) * line_height(TEXT) + 2 * GAP
    width = columns * (layout.size[0] + MARGIN) + MARGIN
    strips = [_strip(strip, width - 2 * MARGIN) for strip in result.strips]
    subjects = MARGIN + header + rows * (layout.size[1] + MARGIN)
    sheet = Image.new("RGB", (width, subjects + sum(one.height + MARGIN for one in strips)), PAPER)
    for column in range(columns):
        left = MARGIN + column * (layout.size[0] + MARGIN)
        _header(sheet, (left, MARGIN), layout, titles, header)
        for place, group in enumerate(shown[column::columns]):
            _subject(sheet, result, group, layout, (left, MARGIN + header + place * (layout.size[1] + MARGIN)))
    top = subjects
    for one in strips:
        sheet.paste(one, (MARGIN, top))
        top += one.height + MARGIN
    return sheet


def _header(
    sheet: Image.Image, corner: tuple[int, int], layout: Layout, titles: Sequence[list[str]], height: int
) -> None:
    """Titles of the columns, on one ground line."""
    draw, bottom = ImageDraw.Draw(sheet), corner[1] + height - 2 * GAP
    if layout.references:
        word = ["references" if layout.references > 1 else "reference"]
        write(draw, (corner[0], bottom - line_height(TEXT)), word, TEXT, bold=True)
    for number, lines in enumerate(titles):
        left = corner[0] + layout.shots + number * (layout.cell[0] + GAP)
        write(draw, (left, bottom - len(lines) * line_height(TEXT)), lines, TEXT, bold=True)


def _subject(sheet: Image.Image, result: Result, group: Sequence[int], layout: Layout, corner: tuple[int, int]) -> None:
    draw, (left, top) = ImageDraw.Draw(sheet), corner
    for number, path in enumerate(result.references(group[0])):
        place = left + number * (layout.reference + GAP)
        paste(sheet, path, (place, top + layout.caption, layout.reference, layout.reference))
    for turn, index in enumerate(group[: layout.prompts]):
        above = top + turn * (layout.caption + layout.cell[1] + ROW)
        room = layout.size[0] - layout.shots
        write(draw, (left + layout.shots, above), wrapped(result.prompt(index), TEXT, room, lines=1), TEXT, ink=SOFT)
        for number, variant in enumerate(result.rows):
            place = left + layout.shots + number * (layout.cell[0] + GAP)
            paste(sheet, result.picture(variant, index), (place, above + layout.caption, *layout.cell))


def _strip(strip: Strip, width: int) -> Image.Image:
    """Each sample's reference, then its picture under each value with the label below, on as many lines as it takes."""
    lines = [_strip_of_one(strip, number, width) for number in range(len(strip.prompts))]
    sheet = Image.new("RGB", (width, sum(one.height + MARGIN for one in lines) - MARGIN), PAPER)
    top = 0
    for one in lines:
        sheet.paste(one, (0, top))
        top += one.height + MARGIN
    return sheet


def _strip_of_one(strip: Strip, sample: int, width: int) -> Image.Image:
    pictures, references = strip.pictures(sample), strip.references(sample)
    side, caption = LARGE[0], line_height(TEXT) + GAP
    left = len(references) * (side + GAP) + (2 * GAP if references else 0)
    height = LEAST
    cell = LEAST
    if pictures:
        native = size_of(pictures[0][1])
        fitting = (width - left) // len(pictures) - GAP  # as large as one line has room for, within limits
        height = min(max(round(fitting * native[1] / native[0]), LEAST), MOST)
        cell = round(height * native[0] / native[1])
    labels = [wrapped(label, TEXT - 1, cell) for label, _ in pictures]
    below = max(map(len, labels), default=0) * line_height(TEXT - 1) + GAP
    across = max((width - left) // (cell + GAP), 1)
    rows = -(-len(pictures) // across)
    sheet = Image.new("RGB", (width, caption + max(side, rows * (height + below))), PAPER)
    draw = ImageDraw.Draw(sheet)
    write(draw, (left, 0), wrapped(strip.prompts[sample], TEXT, width - left, lines=1), TEXT, ink=SOFT)
    for number, path in enumerate(references):
        paste(sheet, path, (number * (side + GAP), caption, side, side))
    for number, (_, path) in enumerate(pictures):
        row, column = divmod(number, across)
        corner = (left + column * (cell + GAP), caption + row * (height + below))
        paste(sheet, path, (*corner, cell, height))
        write(draw, (corner[0], corner[1] + height + GAP // 2), labels[number], TEXT - 1)
    return sheet
