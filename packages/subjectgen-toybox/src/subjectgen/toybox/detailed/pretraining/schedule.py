"""Learning rates that depend on the step alone, so that a training is the same however often it was stopped."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm up, stay, and fall to nothing in the last part.

    Until the fall begins, the number of steps changes nothing: a training may be prolonged or shortened until then.
    """

    steps: int
    warmup: int = 100
    falling: float = 0.3
    """Share of all steps in which the rate falls."""

    def factor(self, step: int) -> float:
        """Share of the full rate at a step, counted from 0."""
        left = (self.steps - step) / max(1.0, self.falling * self.steps)
        return min(1.0, (step + 1) / self.warmup, max(left, 0.01))

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the rates of all groups from their first rates."""
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * self.factor(step)
