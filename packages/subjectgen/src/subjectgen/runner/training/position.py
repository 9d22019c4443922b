"""Where a run is: with weights, optimizer and average, all that it needs to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from subjectgen.core import InputError


@dataclass(kw_only=True)
class Position:
    """Of a run; a checkpoint keeps it."""

    step: int = 0
    """Steps that were made, over all phases."""
    phase: int = 0
    phase_step: int = 0
    """Steps of the phase that were made."""
    skipped: int = 0
    """Steps that were left out because something was not finite."""
    average_steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    """Mean loss of the last logged interval, by phase."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Position:
        """Out of a checkpoint's record."""
        return cls(**{name: value for name, value in record.items() if name in cls.__dataclass_fields__})

    @property
    def record(self) -> dict[str, Any]:
        """For a checkpoint, independent of what comes next."""
        return {**vars(self), "losses": dict(self.losses)}

    def left_out(self, problem: str, *, allowed: int, last_good: str) -> str:
        """Count a step that was not made, and say so.

        Args:
            problem: What was not finite.
            allowed: Steps that a run may leave out.
            last_good: Which checkpoint there is.

        Raises:
            InputError: More than is allowed.
        """
        self.skipped += 1
        message = f"{problem} at step {self.step + 1}, which was not made"
        if self.skipped > allowed:
            raise InputError(
                f"training: {message}; {last_good}; expected finite numbers: lower training.learning_rate, look at the "
                "data of this step, or allow training.skip_nonfinite steps"
            )
        return f"{message}; {self.skipped} of {allowed} allowed"
