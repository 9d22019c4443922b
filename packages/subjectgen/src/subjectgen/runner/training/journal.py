"""What a run says of itself: lines of its log, also to trackers and to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from subjectgen.runner.training.draws import TrainingBatch
from subjectgen.runner.training.engine import Engine
from subjectgen.runner.training.interval import Interval
from subjectgen.runner.training.phases import Phase
from subjectgen.runner.training.position import Position
from subjectgen.runner.training.progress import Progress
from subjectgen.runner.training.rows import BrokenSamples, Row
from subjectgen.runner.training.run_directory import METRICS, RunDirectory
from subjectgen.runner.training.step import StepResult
from subjectgen.runner.training.trackers import Trackers


class Journal:
    """Counts what happens between two lines of the log, and writes them."""

    def __init__(
        self, run: RunDirectory, engine: Engine, progress: Progress, trackers: Trackers, *, max_broken: float
    ) -> None:
        """``max_broken``: share of rows that may turn out unreadable."""
        self.progress = progress
        self._run, self._engine, self._trackers = run, engine, trackers
        self._broken = BrokenSamples(max_broken)
        self._interval = Interval()
        self._started, self._before = time.monotonic(), 0.0

    @property
    def record(self) -> dict[str, Any]:
        """For a checkpoint; all processes must ask."""
        return {
            "seconds": self._seconds,
            "interval": Interval.merged(self._engine.together([self._interval.state])).state,
            "rows": self._broken.rows,
            "broken": dict(self._broken.names),
        }

    def restore(self, record: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self._before = record["seconds"]
        self._broken.rows, self._broken.names = record["rows"], dict(record["broken"])
        if self._engine.main:  # sums are of all processes already
            self._interval = Interval(record["interval"])

    def waited(self, seconds: float) -> None:
        """Time in which a step had no data."""
        self._interval.waited(seconds)

    def looked(self, seconds: float) -> None:
        """Time in which the run looked at itself; it counts in no speed."""
        self._interval.looked(seconds)
        self.progress.looked(seconds)

    def read(self, rows: Sequence[Row]) -> None:
        """Rows of a step; says what could not be read.

        Raises:
            InputError: More than is allowed.
        """
        for told in self._broken.add(rows):
            self.progress.say(told)

    def made(self, batch: TrainingBatch, result: StepResult) -> None:
        """A step."""
        self._interval.add(batch, result)

    def log(self, position: Position, phase: Phase, rate: float, *, batch_size: int) -> None:
        """One line of what was counted since the last one; all processes must ask."""
        merged = Interval.merged(self._engine.together([self._interval.state]))
        position.losses[phase.name] = merged.loss
        line = {
            "step": position.step,
            "phase": phase.name,
            "epoch": phase.data.order.at(position.phase_step * batch_size - 1).epoch,
            "seconds": self._seconds,
            "learning_rate": rate,
            **merged.line(self._interval),
            "skipped": position.skipped,
            "broken": len(self._broken.names),
            "memory_bytes": torch.cuda.max_memory_allocated()
            if self._engine.accelerator.device.type == "cuda"
            else None,
        }
        self.write(METRICS, line)
        self.progress.logged(f"step {position.step}", str(merged))
        self._interval = Interval()

    def write(self, file: str, line: Mapping[str, Any]) -> None:
        """Append a line to a file of the run, and give it to trackers."""
        self._run.log(line, file)
        self._trackers.log(line, file)

    @property
    def _seconds(self) -> float:
        return round(self._before + time.monotonic() - self._started, 1)
