"""What is wrong with samples: counted by reason, with a few named examples of each."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

SHOWN = 5
"""Examples that are kept of each reason."""


class Faults:
    """Counts faults."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: str) -> None:
        """One more."""
        self._counts[reason] += 1
        known = self._examples.setdefault(reason, [])
        if len(known) < SHOWN:
            known.append(example[:500])

    def add_error(self, place: str, error: BaseException) -> None:
        """A sample raised this when it was read."""
        reason = str(getattr(error, "reason", "") or "") or f"{type(error).__name__}: {general(str(error))}"
        self.add(reason, f"{place}: {' '.join(str(error).split())}")

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self._counts.values())

    def describe(self) -> list[dict[str, Any]]:
        """By reason, the commonest first."""
        return [
            {"reason": reason, "count": count, "examples": self._examples[reason]}
            for reason, count in self._counts.most_common()
        ]


def general(message: str) -> str:
    """A message without what differs from sample to sample: quotations, paths, numbers."""
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "...", " ".join(message.split()))
    message = re.sub(r"\S*/\S*", "...", message)
    return re.sub(r"\d+", "#", message)[:120]
