"""Progress of long work: a bar on a terminal, plain lines without one; the first within two seconds."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subjectgen.runner.generation.batches import Step

EVERY = 15.0
"""Seconds between plain lines."""


class Loading:
    """Says what goes on while nothing else can be said: after a second, then with the time that has gone."""

    def __init__(self, what: str) -> None:
        self._what, self._stop = what, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Loading:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        if self._stop.wait(1.0):
            return
        print(f"{self._what} ...", file=sys.stderr, flush=True)
        while not self._stop.wait(EVERY):
            print(f"{self._what} ... {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


class Steps:
    """Denoising steps of a known number of images."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._label, self._plain = label, not console.is_terminal
        self._batches = self._done = 0
        self._said = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[stage]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=self._plain,
        )
        self._task = self._bar.add_task(label, total=None, stage="")

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, batches: int, label: str | None = None) -> None:
        """So many batches come now."""
        self._label, self._batches, self._done = label or self._label, batches, 0
        self._bar.reset(self._task, total=None, description=self._label, stage="")
        if self._plain and batches:
            print(f"{self._label}: {batches} {'batch' if batches == 1 else 'batches'}", file=sys.stderr, flush=True)
            self._said = time.monotonic()

    def __call__(self, step: Step) -> None:
        """One step of one batch was made."""
        self._done += 1
        total = step.steps * self._batches
        stage = f"t = {step.timestep:.2f} {step.stage}"
        self._bar.update(self._task, completed=self._done, total=total or None, stage=stage)
        if self._plain and time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            print(f"{self._label}: {self._done} of {total or '?'} steps, {stage}", file=sys.stderr, flush=True)
