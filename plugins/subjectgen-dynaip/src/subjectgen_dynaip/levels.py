"""Which hidden states are the low, middle and high level of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator

from subjectgen.core import ComponentError, nearest

LEVELS = ("low", "mid", "high")
_PROPORTIONS = (10, 17, 24)
"""The paper's hidden states of ViT-L/14, which has 24 blocks (DynaIP 4.2, B.1)."""


def _rising(levels: tuple[int, int, int]) -> tuple[int, int, int]:
    """ValueError, which pydantic reports with the key. Of mixed signs nothing is known before the encoder is."""
    if min(levels) >= 0 or max(levels) < 0:
        _check_rising(levels)
    return levels


def _check_rising(levels: Sequence[int]) -> None:
    if not levels[0] < levels[1] < levels[2]:
        hint = f"; did you mean {_listed(sorted(levels))}?" if len(set(levels)) == 3 else ""
        raise ValueError(f"levels: got {_listed(levels)}; expected low, mid, high, each above the one before{hint}")


def _named(level: Any) -> Any:
    if isinstance(level, str) and level not in LEVELS and not level.lstrip("-").isdecimal():
        raise ValueError(f"level: {level!r} is no level; expected low, mid, high or an index{nearest(level, LEVELS)}")
    return level


Levels: TypeAlias = Annotated[tuple[int, int, int], AfterValidator(_rising)]
"""Low, mid and high as indices of hidden states; negative ones count from the last."""

Level: TypeAlias = Annotated[Literal["low", "mid", "high"] | int, BeforeValidator(_named)]
"""One level by its name or as an index of a hidden state; a negative one counts from the last."""


def default_levels(depth: int) -> tuple[int, int, int]:
    """The paper's proportions 10/24, 17/24 and 24/24 of the blocks, halves rounded up: 10, 17, 24 of ViT-L's 24.

    With two blocks, the fewest that have three levels, low and mid would be one; they are 0 and 1 there.

    Args:
        depth: number of hidden states, M + 1.

    Raises:
        ComponentError: fewer than three hidden states.
    """
    if depth < len(LEVELS):
        raise ComponentError(
            f"the encoder has {depth} hidden states; expected at least three, one for each level (or the aggregator "
            "'single_level')"
        )
    low, mid, high = ((2 * (depth - 1) * share + 24) // 48 for share in _PROPORTIONS)
    return min(low, mid - 1), mid, high


def resolve_levels(levels: tuple[int, int, int] | None, depth: int) -> tuple[int, int, int]:
    """Low, mid and high as indices from 0 to M; ``None`` gives :func:`default_levels`.

    Raises:
        ComponentError: a level that the encoder does not have, or levels that do not rise.
    """
    if levels is None:
        return default_levels(depth)
    low, mid, high = (_index(level, depth, key="levels") for level in levels)
    try:
        _check_rising((low, mid, high))
    except ValueError as error:
        raise ComponentError(str(error)) from error
    return low, mid, high


def resolve_level(level: Level, depth: int) -> int:
    """One level as an index from 0 to M.

    Raises:
        ComponentError: a level that the encoder does not have.
    """
    if level == "high":
        return depth - 1
    if isinstance(level, str):
        return default_levels(depth)[LEVELS.index(level)]
    return _index(level, depth, key="level")


def _index(level: int, depth: int, *, key: str) -> int:
    if not -depth <= level < depth:
        closest = depth - 1 if level > 0 else 0
        raise ComponentError(
            f"{key}: got {level}; the encoder has hidden states 0-{depth - 1}; did you mean {closest}?"
        )
    return level % depth


def _listed(levels: Sequence[int]) -> str:
    return ", ".join(map(str, levels))
