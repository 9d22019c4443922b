"""What happened between two lines of the log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from subjectgen.runner.training.draws import TrainingBatch
from subjectgen.runner.training.step import StepResult


class Interval:
    """Losses between two lines of the log, in total and by stage."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._norm = 0.0
        self._started = time.monotonic()

    def add(self, batch: TrainingBatch, result: StepResult) -> None:
        """Take in one step."""
        for stage, loss in zip(batch.stages, result.losses, strict=True):
            self._sums[stage] = self._sums.get(stage, 0.0) + loss
            self._counts[stage] = self._counts.get(stage, 0) + 1
        self._norm = result.gradient_norm

    @property
    def loss(self) -> float:
        """Mean over rows."""
        return sum(self._sums.values()) / max(sum(self._counts.values()), 1)

    @property
    def by_stage(self) -> dict[str, float]:
        """Mean over the rows of each stage."""
        return {stage: total / self._counts[stage] for stage, total in sorted(self._sums.items())}

    def line(self) -> Mapping[str, Any]:
        """Values for the log; the gradient norm is that of the last step, before clipping."""
        rows = sum(self._counts.values())
        return {
            "loss": round(self.loss, 6),
            "loss_by_stage": {stage: round(loss, 6) for stage, loss in self.by_stage.items()},
            "gradient_norm": float(f"{self._norm:.4g}"),
            "samples": rows,
            "samples_per_second": round(rows / max(time.monotonic() - self._started, 1e-9), 2),
        }

    def __str__(self) -> str:
        return "loss " + " ".join(f"{stage} {loss:.3f}" for stage, loss in self.by_stage.items())
