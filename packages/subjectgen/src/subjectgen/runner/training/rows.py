"""The rows of a phase, by position: what is read, and what is passed over because it cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from subjectgen.core import Augments, Dataset, InputError, Sample
from subjectgen.core.errors import one_line
from subjectgen.runner.training.order import Order, Place
from subjectgen.runner.training.positions import derived_seed

ATTEMPTS = 32
"""Samples that are tried at one position before the data set is given up."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample at its position."""

    position: int
    """In the phase, from 0."""
    place: Place
    sample: Sample | None
    """``None`` if none of the samples that were tried can be read."""
    broken: tuple[tuple[str, str], ...] = ()
    """Samples that were passed over: which, and why."""


class Rows:
    """Reads rows; picklable, so that worker processes may read."""

    def __init__(self, datasets: Sequence[Dataset], order: Order, *, seed: int, phase: int) -> None:
        self.datasets, self.order = tuple(datasets), order
        self._seed, self._phase = seed, phase

    def __len__(self) -> int:
        """More than anybody reads: positions have no end."""
        return 2**62

    def __getitem__(self, position: int) -> Row:
        """The row at a position. What cannot be read is replaced by a sample that follows from the position, too."""
        broken: list[tuple[str, str]] = []
        for attempt in range(ATTEMPTS):
            place = self.order.instead(position, attempt) if attempt else self.order.at(position)
            try:
                sample = self._read(place, position)
            except Exception as error:  # a plugin's data set may raise anything; one broken file must not end a run
                name = f"{self.order.sources[place.source].name}sample {place.index}"
                broken.append((name, f"{type(error).__name__}: {one_line(error)}"))
            else:
                return Row(position=position, place=place, sample=sample, broken=tuple(broken))
        return Row(position=position, place=place, sample=None, broken=tuple(broken))

    def _read(self, place: Place, position: int) -> Sample:
        dataset = self.datasets[place.source]
        if isinstance(dataset, Augments):
            return dataset.augmented(place.index, derived_seed(self._seed, "augment", self._phase, position))
        return dataset[place.index]


class BrokenSamples:
    """Counts what was passed over, and says when it is too much."""

    def __init__(self, allowed: float) -> None:
        """``allowed``: share of the rows; the first :data:`GRACE` rows are judged as if there were as many."""
        self._allowed = allowed
        self.rows = 0
        self.names: dict[str, str] = {}
        """Each sample that was passed over, and why, in the order in which they were met."""

    def add(self, rows: Sequence[Row]) -> list[str]:
        """Count rows; returns a line for each sample that is new here.

        Raises:
            InputError: Nothing could be read at a position, or more is broken than is allowed.
        """
        self.rows += len(rows)
        told = []
        for row in rows:
            for name, why in row.broken:
                if name not in self.names:
                    self.names[name] = why
                    told.append(f"{name} cannot be read and is passed over: {why}")
            if row.sample is None:
                name, why = row.broken[-1]
                raise InputError(f"{len(row.broken)} samples in a row cannot be read, the last of them {name}: {why}")
        if told and len(self.names) > self._allowed * max(self.rows, GRACE):
            raise InputError(
                f"{len(self.names)} samples of {self.rows} rows cannot be read, which is more than training.max_broken "
                f"allows ({self._allowed:g} of the rows, counted as at least {GRACE}); the last: {told[-1]}"
            )
        return told


GRACE = 1000
