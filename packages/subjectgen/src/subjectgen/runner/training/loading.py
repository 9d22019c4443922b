"""Rows of the steps to come, read ahead by worker processes. Who reads, and how far ahead, changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from subjectgen.runner.training.rows import Row, Rows


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which rows of each step a process trains on."""

    batch_size: int
    """Rows of a step in all processes together."""
    rank: int = 0
    processes: int = 1

    def positions(self, step: int) -> list[int]:
        """Of this process, in a step of the phase counted from 0."""
        return list(range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.processes))


def load_rows(rows: Rows, share: Share, *, first: int, steps: int, workers: int, ahead: int = 2) -> Iterator[list[Row]]:
    """The rows of each step from ``first`` to before ``steps``.

    Args:
        rows: Of the phase.
        share: This process's.
        first: Step to begin with; a later one costs no more than an earlier one.
        steps: Of the phase.
        workers: Processes that read; 0 reads here.
        ahead: Steps that each worker reads ahead.
    """
    if not workers:
        for step in range(first, steps):
            yield [rows[position] for position in share.positions(step)]
        return
    yield from DataLoader(
        rows,  # type: ignore[arg-type]  # a map from positions is all that is asked for
        batch_sampler=_Steps(share, first, steps),
        num_workers=workers,
        prefetch_factor=ahead,
        collate_fn=list,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # or it would draw from the global one
    )


class _Steps:
    """Positions of each step, as a sampler of batches."""

    def __init__(self, share: Share, first: int, steps: int) -> None:
        self._share, self._steps = share, range(first, steps)

    def __iter__(self) -> Iterator[list[int]]:
        return (self._share.positions(step) for step in self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def _ignore_interrupts(_worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the trainer ends its workers once it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
