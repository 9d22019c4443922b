"""What of an index cannot be used: counted by reason, with examples, and told once."""

from __future__ import annotations

import warnings
from collections import Counter

from subjectgen.core import InputError

SHOWN = 3
"""Examples that are kept of each reason."""


class RefusedError(Exception):
    """An item of an index that cannot be used."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """``reason``: the same words for all of a kind, to count by; ``detail``: what is so in this one."""
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class LeftOut:
    """Counts what is left out.

    ``counts``: by reason. ``examples``: by reason, messages that name file and line, at most three. ``unwanted``: items
    that are well but were not asked for, such as pairs below a threshold.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.unwanted = 0

    def add(self, place: str, refused: RefusedError) -> None:
        """One item was left out."""
        self.counts[refused.reason] += 1
        known = self.examples.setdefault(refused.reason, [])
        if len(known) < SHOWN:
            known.append(f"{place}: {refused.reason}{refused.detail and f': {refused.detail}'}")

    @property
    def total(self) -> int:
        """Items that cannot be used."""
        return sum(self.counts.values())

    def tell(self, where: str, kept: int, what: str) -> None:
        """Warn once of all that was left out.

        Args:
            where: File or folder.
            kept: Items that can be used.
            what: What the items are, in the plural.

        Raises:
            InputError: None can be used.
        """
        reasons = [f"{count} x {reason}" for reason, count in self.counts.most_common()]
        shown = [f"\n  {example}" for examples in self.examples.values() for example in examples][: 2 * SHOWN]
        listed = f" ({', '.join(reasons)})" if reasons else ""
        total = kept + self.total + self.unwanted
        if not kept:
            unwanted = f"; {self.unwanted} are well, but not wanted by its options" if self.unwanted else ""
            raise InputError(f"{where}: none of {total} {what} can be used{listed}{unwanted}{''.join(shown)}")
        if self.total:
            message = f"{where}: {self.total} of {total} {what} cannot be used and are left out{listed}, such as"
            warnings.warn(message + "".join(shown), stacklevel=3)
