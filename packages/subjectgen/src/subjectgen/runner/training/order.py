"""Which sample stands at which position of a phase: a pure function of seed, phase and position.

Workers, prefetching and the number of processes cannot matter by construction, and a checkpoint holds one number.
Positions are cut into units that stay together: single rows, or whole batches where batches are made of one size of
targets (buckets). A mixture deals units out to its sources in blocks of :data:`BLOCK`, each with exactly the source's
share; each source walks through all of its samples once per epoch, in a new order every time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from subjectgen.core import InputError
from subjectgen.runner.training.positions import derived_seed, permutation

BLOCK = 1000
"""Units in which a mixture's shares are exact; a share is rounded to a thousandth."""
VERSION = 1
"""Of this order: part of what a checkpoint compares."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the order must know of a data set."""

    name: str
    """For messages."""
    samples: int
    weight: float = 1.0
    """Share of the mixture, in proportion to the others'."""
    buckets: tuple[Hashable, ...] | None = None
    """Of each sample: only those of one bucket share a batch. ``None``: any may."""


@dataclass(frozen=True, slots=True)
class Place:
    """A sample at a position."""

    source: int
    index: int
    epoch: int
    """How often the source was walked through before."""


class Order:
    """The samples of a phase, endlessly. Holds no state but what it can compute again."""

    def __init__(self, sources: Sequence[Source], *, seed: int, phase: int, batch_size: int) -> None:
        """Plan for these sources.

        Args:
            sources: Of one phase.
            seed: The experiment's.
            phase: Its number, so that phases differ.
            batch_size: Rows of a step, in all processes together.

        Raises:
            InputError: A source without samples, without a batch of one size, or with a share below a thousandth.
        """
        self.sources, self._seed, self._phase = tuple(sources), seed, phase
        self.unit = batch_size if any(source.buckets is not None for source in sources) else 1
        """Rows that stay together."""
        self._members = [_members(source) for source in self.sources]
        self._units = [sum(len(one) // self.unit for one in members) for members in self._members]
        for source, units in zip(self.sources, self._units, strict=True):
            if not units:
                raise InputError(
                    f"{source.name}no bucket holds the {self.unit} samples of a batch; expected fewer buckets, more "
                    "samples or a smaller training.batch_size"
                    if source.samples
                    else f"{source.name}holds no samples"
                )
        self._counts = _counts(self.sources)
        self._kept: dict[tuple[int, int], Int[Tensor, "units unit"]] = {}

    @property
    def tails(self) -> dict[str, int]:
        """Samples that one epoch leaves out because they fill no batch, by source; other ones in every epoch, but for
        buckets that are smaller than a batch.
        """
        pairs = zip(self.sources, self._units, strict=True)
        return {source.name: source.samples - units * self.unit for source, units in pairs}

    @property
    def unused(self) -> dict[str, int]:
        """Samples that no epoch ever shows, by source: those of buckets smaller than a batch."""
        return {
            source.name: sum(len(one) for one in members if len(one) < self.unit)
            for source, members in zip(self.sources, self._members, strict=True)
        }

    def at(self, position: int) -> Place:
        """The sample at a position of the phase, from 0."""
        number, offset = divmod(position, self.unit)
        source, rank = self._dealt(number)
        epoch, place = divmod(rank, self._units[source])
        return Place(source, int(self._epoch(source, epoch)[place, offset]), epoch)

    def instead(self, position: int, attempt: int) -> Place:
        """What is shown where the sample at a position cannot be read: another one of its source and bucket.

        Args:
            position: In the phase, from 0.
            attempt: From 1; each gives another draw.
        """
        first = self.at(position)
        source = self.sources[first.source]
        bucket = None if source.buckets is None else source.buckets[first.index]
        buckets = source.buckets
        alike = (one for one in self._members[first.source] if buckets is None or buckets[int(one[0])] == bucket)
        members = next(alike)
        drawn = derived_seed(self._seed, "instead", self._phase, position, attempt) % len(members)
        return Place(first.source, int(members[drawn]), first.epoch)

    def _dealt(self, number: int) -> tuple[int, int]:
        """Source of a unit, and how many units of that source come before it."""
        if len(self.sources) == 1:
            return 0, number
        block, place = divmod(number, BLOCK)
        dealt = torch.repeat_interleave(torch.tensor(self._counts))
        dealt = dealt[permutation(BLOCK, self._seed, "mixture", self._phase, block)]
        source = int(dealt[place])
        return source, block * self._counts[source] + int((dealt[:place] == source).sum())

    def _epoch(self, source: int, epoch: int) -> Int[Tensor, "units unit"]:
        if (source, epoch) not in self._kept:
            for old in [key for key in self._kept if key[0] == source and key[1] < epoch - 1]:
                del self._kept[old]
            self._kept[source, epoch] = self._shuffled(source, epoch)
        return self._kept[source, epoch]

    def _shuffled(self, source: int, epoch: int) -> Int[Tensor, "units unit"]:
        """Samples in each bucket shuffled, cut into units, and the units shuffled."""
        key = (self._seed, "epoch", self._phase, source, epoch)
        rows = []
        for bucket, members in enumerate(self._members[source]):
            shuffled = members[permutation(len(members), *key, bucket)]
            rows.append(shuffled[: len(members) // self.unit * self.unit].reshape(-1, self.unit))
        units = torch.cat(rows)
        return units[permutation(len(units), *key, "units")] if len(rows) > 1 else units


def _members(source: Source) -> list[Int[Tensor, " n"]]:
    """Indices of each bucket, in order of first appearance."""
    if source.buckets is None:
        return [torch.arange(source.samples)]
    numbers = {bucket: number for number, bucket in enumerate(dict.fromkeys(source.buckets))}
    labels = torch.tensor([numbers[bucket] for bucket in source.buckets], dtype=torch.long)
    return [torch.nonzero(labels == number).flatten() for number in range(len(numbers))]


def _counts(sources: Sequence[Source]) -> list[int]:
    """Units of each source in a block: rounded shares that add up (largest remainders)."""
    total = sum(source.weight for source in sources)
    exact = [BLOCK * source.weight / total for source in sources]
    counts = [int(share) for share in exact]
    for number in sorted(range(len(exact)), key=lambda n: counts[n] - exact[n])[: BLOCK - sum(counts)]:
        counts[number] += 1
    for source, count in zip(sources, counts, strict=True):
        if not count:
            raise InputError(
                f"{source.name}weight {source.weight:g} of {total:g} is less than a thousandth of the mixture; "
                "expected a larger weight"
            )
    return counts
