"""The learning rate of each step of a phase."""

from __future__ import annotations

import math
from typing import Any

from subjectgen.runner.system.settings import PhaseSettings, TrainingSettings


def learning_rate(step: int, phase: PhaseSettings, settings: TrainingSettings) -> float:
    """Of one step of a phase, counted from 0: the phase's own rate where it has one, times :func:`factor`."""
    return (phase.learning_rate or settings.learning_rate) * factor(step, phase.steps, settings)


def factor(step: int, steps: int, settings: TrainingSettings) -> float:
    """Share of the full learning rate at a step of a phase: rising in the warm-up, then as ``lr_schedule`` says."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    done = step / steps
    fall = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return warm * fall[settings.lr_schedule]


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Of all parameters of an optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = rate
