"""What callers from Python pass: one thing or several, numbers of any library."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Set
from typing import Any

from subjectgen.core.errors import InputError

_ONE = (str, bytes, bytearray, memoryview, os.PathLike)
SEEDS = 2**63
"""Seeds are below this."""


def as_list(value: Any, what: str) -> list[Any]:
    """One thing or several, as a list: a text, path, picture, array or tensor is one thing.

    Args:
        value: ``None`` is an empty list; lists, tuples, generators and other ordered collections keep their order.
        what: What it is, for messages.

    Raises:
        InputError: A set or a mapping, which have no order or two parts.
    """
    if value is None:
        return []
    if isinstance(value, (Set, Mapping)):
        raise InputError(f"{what}: got a {type(value).__name__}; expected one, or a list in order")
    one = isinstance(value, _ONE) or hasattr(value, "shape") or not isinstance(value, Iterable)
    return [value] if one else list(value)


def as_seeds(value: Any, what: str = "seed") -> list[int]:
    """One seed or several: whole numbers of Python, NumPy or torch, a range, a sequence or an array of them.

    Raises:
        InputError: None at all, a number that is not whole or outside of 0..2**63 - 1, true or false, text.
    """
    plain = value.tolist() if hasattr(value, "tolist") else value  # of arrays, tensors and their single numbers
    seeds = [_seed(number, what) for number in as_list(plain, what)]
    if not seeds:
        raise InputError(f"{what}: got none; expected at least one whole number")
    return seeds


def _seed(value: Any, what: str) -> int:
    plain = value.tolist() if hasattr(value, "tolist") else value
    try:
        if isinstance(plain, bool):
            raise TypeError
        number = operator.index(plain)
    except TypeError:
        raise InputError(f"{what}: got {type(value).__name__} {value!r:.60}; expected a whole number") from None
    if not 0 <= number < SEEDS:
        raise InputError(f"{what}: got {number}; expected 0..2**63 - 1")
    return number
