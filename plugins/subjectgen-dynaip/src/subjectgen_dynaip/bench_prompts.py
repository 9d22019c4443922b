"""Prompts of DynaIP-Bench (Table 3) and where each subject stands in the picture.

The words are the paper's as printed, "embracing" without "are" and "on the middle" included. One thing is mended where
a subject is filled in: "a" becomes "an" before a vowel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in shares of width and height."""

DATA_TYPES = ("living", "object", "human", "character", "upwearing", "midwearing", "downwearing", "wholewearing")

SCENES = (
    "in a room",
    "in the snow",
    "in the jungle",
    "on the beach",
    "on the grass",
    "on a cobblestone street",
)
TWO_TOGETHER = (
    "embracing",
    "are sitting on the sofa",
    "are eating noodles",
    "are shaking hands",
    "are fighting",
    "are walking on the street",
)
THREE_TOGETHER = (
    "are sitting on the sofa",
    "are eating noodles",
    "are fighting",
    "are walking on the street",
    "are taking a photo together",
    "are playing football",
)

SIDE_BY_SIDE = "a {0} and a {1} [P], {0} on the left, and {1} on the right"
THREE_IN_A_ROW = "a {0}, a {1}, and a {2} [P], {0} on the left, {1} on the middle, and {2} on the right"
WEARING = "a {0} wearing a {1} [P]"
TWO_GARMENTS = "a woman wearing a {0} and {1} [P]"
THREE_GARMENTS = "a woman wearing a {0}, a {1}, and a {2} [P]"

HALVES: tuple[Box, ...] = ((0, 0, 1 / 2, 1), (1 / 2, 0, 1, 1))
THIRDS: tuple[Box, ...] = ((0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1), (2 / 3, 0, 1, 1))
WHOLE: Box = (0, 0, 1, 1)
WORN: dict[str, Box] = {
    "upwearing": (0, 0, 1, 1 / 3),
    "midwearing": (0, 1 / 3, 1, 2 / 3),
    "downwearing": (0, 2 / 3, 1, 1),
    "wholewearing": (0, 1 / 3, 1, 1),
}
"""Where a garment is on someone who stands upright and fills the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One combination type: which subjects come together, in which words, and where."""

    types: tuple[str, ...]
    """Data type of ``{0}``, ``{1}``, ``{2}``."""
    template: str
    variations: tuple[str, ...]
    """What ``[P]`` stands for, one prompt each."""
    boxes: tuple[Box, ...]
    """Where ``{0}``, ``{1}``, ``{2}`` are, by the words of the template."""

    @property
    def name(self) -> str:
        """As in Table 3, such as ``living+object``."""
        return "+".join(self.types)

    def prompt(self, variation: int, words: tuple[str, ...]) -> str:
        """The prompt with a class word for each subject."""
        text = self.template.replace("[P]", self.variations[variation])
        return re.sub(r"(\ba )?\{(\d)\}", lambda found: _noun(words[int(found[2])], article=bool(found[1])), text)


def _noun(word: str, *, article: bool) -> str:
    if not article:
        return word
    return f"{'an' if re.match(r'(?!uni|eu|one)[aeiou]', word, re.IGNORECASE) else 'a'} {word}"


def _combination(name: str, template: str, variations: tuple[str, ...]) -> Combination:
    types = tuple(name.split("+"))
    in_a_row = {2: HALVES, 3: THIRDS}[len(types)]
    worn = any(kind in WORN for kind in types)
    boxes = tuple(WORN.get(kind, WHOLE) for kind in types) if worn else in_a_row
    return Combination(types=types, template=template, variations=variations, boxes=boxes)


COMBINATIONS = tuple(
    _combination(name, template, variations)
    for names, template, variations in (
        ("living+living living+object object+object", SIDE_BY_SIDE, SCENES),
        ("human+human human+character character+character", SIDE_BY_SIDE, TWO_TOGETHER),
        ("living+upwearing living+midwearing living+wholewearing", WEARING, SCENES),
        ("midwearing+downwearing", TWO_GARMENTS, SCENES),
        ("living+living+living object+object+object", THREE_IN_A_ROW, SCENES),
        ("human+human+character", THREE_IN_A_ROW, THREE_TOGETHER),
        ("upwearing+midwearing+downwearing", THREE_GARMENTS, SCENES),
    )
    for name in names.split()
)
"""The 14 combination types in the table's order: ten of two subjects, then four of three."""
