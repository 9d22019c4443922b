"""Sizes of all targets, found when they are first asked for and kept as two numbers each."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from subjectgen.datasets.sizing import Size


class TargetSizes(Sequence[Size]):
    """Height and width by index.

    A target that cannot be measured counts as one of the commonest size: it is then met in training, named and
    counted, where a bucket of its own would never fill and hide it.
    """

    def __init__(self, count: int, measure: Callable[[int], Size | None], fixed: Size | None = None) -> None:
        """``measure``: the size of one target. ``fixed``: the size of all, and nothing is measured."""
        self._count, self._measure, self._fixed = count, measure, fixed
        self._found: array[int] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Size: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Size]: ...

    def __getitem__(self, index: int | slice) -> Size | Sequence[Size]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        if self._fixed is not None:
            return self._fixed
        found, at = self._measured(), 2 * (index % self._count)
        return found[at], found[at + 1]

    def __iter__(self) -> Iterator[Size]:
        return (self[index] for index in range(self._count))

    def _measured(self) -> array[int]:
        if self._found is None:
            sizes = [self._measure(index) for index in range(self._count)]
            known = Counter(size for size in sizes if size is not None)
            usual = known.most_common(1)[0][0] if known else (1, 1)
            self._found = array("I", (number for size in sizes for number in size or usual))
        return self._found
