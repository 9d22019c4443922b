"""What no word names: a badge of 3 x 3 cells, a code of 6 bits in the pattern, and a tint. Imports no torch.

Both codes are error-detecting, so that one misread cell never turns one toy into another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

CELLS = 9
"""Cells of a badge, row by row from the top left; bit 0 is the first."""
CODE_BITS = 6
"""Rings, bars or dots of a pattern; a set bit is painted."""


def lexicode(bits: int, distance: int) -> tuple[int, ...]:
    """Words of the greedy code: counting up from 0, each that differs in enough bits from all before it.

    Source: Conway and Sloane, Lexicographic codes: error-correcting codes from game theory, 1986.
    """
    words: list[int] = []
    for word in range(2**bits):
        if all((word ^ other).bit_count() >= distance for other in words):
            words.append(word)
    return tuple(words)


BADGES = lexicode(CELLS, 4)
"""16 words; any two differ in at least 4 of 9 cells."""
PAINTED = 2
"""Of the 6 rings, bars or dots. Fewer than half, so that the body's colour is the more frequent one: a red toy with
blue bars of one code and a blue toy with red bars of the complement would be one picture under different words."""
CODES = tuple(word for word in lexicode(CODE_BITS, 2) if word.bit_count() == PAINTED)
"""15 words; any two differ in at least 2 of 6 bits."""
NO_CODE = 0
"""Of a plain toy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """The part of an identity that no caption names."""

    badge: int
    """One of :data:`BADGES`."""
    code: int = NO_CODE
    """One of :data:`CODES`, or :data:`NO_CODE`."""
    tint: tuple[float, float] = (0.0, 0.0)
    """Shift of all colours along two axes, each -1 to 1."""


def are_held_out(details: Details) -> bool:
    """Whether no training may see this badge together with this code: one pair in eight, by a hash of both.

    The tint is continuous and takes no part.
    """
    digest = hashlib.sha256(f"badge {details.badge} code {details.code}".encode()).digest()
    return digest[0] % 8 == 0


def bits(word: int, count: int) -> tuple[int, ...]:
    """The lowest bits of a word as zeros and ones, bit 0 first."""
    return tuple(word >> index & 1 for index in range(count))
