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
    """Says what goes on while nothing else can be said: after a moment, then with the time that has gone."""

    def __init__(self, what: str, *, after: float = 1.0) -> None:
        """``after``: seconds in which it may be over without a word."""
        self._what, self._after, self._stop = what, after, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Loading:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        if self._stop.wait(self._after):
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

    def say(self, line: str) -> None:
        """A line on standard output, above the bar if there is one."""
        if not self._plain:  # it would be written at the end of the bar's line, for that is another stream
            self._bar.stop()
        print(line, flush=True)
        if not self._plain:
            self._bar.start()

    def __call__(self, step: Step) -> None:
        """One step of one batch was made."""
        self._done += 1
        total = step.steps * self._batches
        stage = f"t = {step.timestep:.2f} {step.stage}"
        self._bar.update(self._task, completed=self._done, total=total or None, stage=stage)
        if self._plain and time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            print(f"{self._label}: {self._done} of {total or '?'} steps, {stage}", file=sys.stderr, flush=True)


class Counted:
    """Items of a known number, as they are done: called with how many are, and of how many."""

    def __init__(self, label: str, what: str) -> None:
        """``label``: what is done, such as ``reading``; ``what``: the items, in the plural."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._label, self._what, self._plain = label, what, not console.is_terminal
        self._opening = Loading(f"{label}: opening it")
        self._started = self._said = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=self._plain,
        )
        self._task = self._bar.add_task(label, total=None)

    def __enter__(self) -> Counted:
        if self._plain:
            self._opening.__enter__()
        else:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._plain:
            self._bar.stop()
        elif not self._started:
            self._opening.__exit__()

    def __call__(self, done: int, total: int) -> None:
        """So many are done."""
        now = time.monotonic()
        if not self._plain:
            self._bar.update(self._task, completed=done, total=total)
            return
        if not self._started:
            self._opening.__exit__()
            self._started = self._said = now
            print(f"{self._label}: {total} {self._what}", file=sys.stderr, flush=True)
        elif now - self._said > EVERY:
            self._said = now
            left = (now - self._started) / max(1, done - 1) * (total - done)
            print(f"{self._label}: {done} of {total} {self._what}, {left:.0f} s left", file=sys.stderr, flush=True)
