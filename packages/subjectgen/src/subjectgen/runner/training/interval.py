"""What happened between two lines of the log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from subjectgen.runner.training.draws import TrainingBatch
from subjectgen.runner.training.step import StepResult

BINS = 10
"""Equal parts of t in [0, 1] by which losses are told apart."""


class Interval:
    """Losses between two lines of the log: in total, by stage, by part of t, and by the branches that a row hears."""

    def __init__(self, sums: Mapping[str, Mapping[str, Sequence[float]]] | None = None) -> None:
        """``sums``: what :attr:`state` said, to go on from."""
        self._sums: dict[str, dict[str, tuple[float, int]]] = {}
        for kind, one in (sums or {}).items():
            for key, (total, count) in one.items():
                self._count(kind, key, total, int(count))
        self._norm = 0.0
        self._waited = 0.0
        self._started = time.monotonic()

    def add(self, batch: TrainingBatch, result: StepResult) -> None:
        """Take in one step."""
        for row, loss in enumerate(result.losses):
            t = float(batch.timesteps[row])
            self._count("stage", batch.stages[row], loss)
            self._count("t", f"{min(int(t * BINS), BINS - 1) / BINS:.1f}", loss)
            self._count("branches", "+".join(sorted(batch.active[row].names)) or "none", loss)
        self._norm = result.gradient_norm

    def waited(self, seconds: float) -> None:
        """Time in which a step had no data."""
        self._waited += seconds

    def looked(self, seconds: float) -> None:
        """Time in which the run looked at itself, which is not counted."""
        self._started += seconds

    @property
    def state(self) -> dict[str, dict[str, tuple[float, int]]]:
        """Sums and counts, for :meth:`merged` and checkpoints."""
        return self._sums

    @classmethod
    def merged(cls, states: Iterable[Mapping[str, Mapping[str, tuple[float, int]]]]) -> Interval:
        """One of all processes."""
        found = cls()
        for state in states:
            for kind, one in state.items():
                for key, (total, count) in one.items():
                    found._count(kind, key, total, count)
        return found

    @property
    def loss(self) -> float:
        """Mean over rows."""
        stages = self._sums.get("stage", {}).values()
        return sum(total for total, _ in stages) / max(sum(count for _, count in stages), 1)

    def means(self, kind: str) -> dict[str, float]:
        """Mean over the rows of each ``stage``, part of ``t``, or set of ``branches``."""
        return {key: total / count for key, (total, count) in sorted(self._sums.get(kind, {}).items())}

    def line(self, own: Interval) -> dict[str, Any]:
        """Values for the log; ``own``: this process's interval, for what is measured only here. The gradient norm is
        that of the last step, before clipping.
        """
        rows = sum(count for _, count in self._sums.get("stage", {}).values())
        seconds = max(time.monotonic() - own._started, 1e-9)
        return {
            "loss": round(self.loss, 6),
            **{f"loss_by_{kind}": _rounded(self.means(kind)) for kind in ("stage", "t", "branches")},
            "gradient_norm": float(f"{own._norm:.4g}"),
            "samples": rows,
            "samples_per_second": round(rows / seconds, 2),
            "data_wait": round(own._waited / seconds, 4),
        }

    def __str__(self) -> str:
        return "loss " + " ".join(f"{stage} {loss:.3f}" for stage, loss in self.means("stage").items())

    def _count(self, kind: str, key: str, loss: float, count: int = 1) -> None:
        total, before = self._sums.setdefault(kind, {}).get(key, (0.0, 0))
        self._sums[kind][key] = (total + loss, before + count)


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 6) for key, value in values.items()}
