"""How fast steps are made, and how long the rest of them takes."""

from __future__ import annotations

import time
from collections import deque

LATELY = 100
"""Steps from which the speed is taken."""


class Pace:
    """Of a phase. The first step is not counted where there are others: much is made but once in it."""

    def __init__(self, steps: int) -> None:
        """``steps``: that are to be made."""
        self._left = steps
        self._idle = 0.0
        self._times: deque[float] = deque([time.monotonic()], maxlen=LATELY + 1)
        self._first = True

    def step_done(self) -> None:
        """One step less."""
        self._left -= 1
        self._times.append(self._now())
        if self._first and len(self._times) == 3:
            self._times.popleft()
            self._first = False

    def looked(self, seconds: float) -> None:
        """Time that went into no step."""
        self._idle += seconds

    @property
    def steps_per_second(self) -> float | None:
        """Lately; ``None`` before the first step."""
        seconds = self._times[-1] - self._times[0]
        return (len(self._times) - 1) / seconds if seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """At this speed, without what else is done beside steps."""
        speed = self.steps_per_second
        return None if speed is None else self._left / speed

    def __str__(self) -> str:
        speed, left = self.steps_per_second, self.seconds_left
        if speed is None or left is None:
            return ""
        fast = f"{speed:.3g} steps/s" if speed >= 1 else f"{1 / speed:.3g} s/step"
        return f"{fast}, {_clock(left)} left"

    def _now(self) -> float:
        return time.monotonic() - self._idle


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds; days where there are some."""
    days, rest = divmod(round(seconds), 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {text}" if days else text
