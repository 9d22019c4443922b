"""What training says while it runs: a bar on a terminal; plain lines without one, also while one thing takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TaskID, TextColumn, TimeRemainingColumn

EVERY = 15.0
"""Seconds after which plain output says what is going on."""


class Progress:
    """As a context: from the first line to the last."""

    def __init__(self, console: Console | None = None, *, every: float = EVERY) -> None:
        self._console = console or Console(stderr=True)
        self._every = every
        self._doing, self._since = "", time.monotonic()
        self._said = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._remind, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def say(self, text: str) -> None:
        """One line, now."""
        self._said = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, doing: str) -> None:
        """Say what is begun; if it takes long, that is said again with the time that has gone."""
        self.doing(doing)
        self.say(f"{doing} ...")

    def doing(self, what: str) -> None:
        """What goes on, for the bar, and for plain output if nothing else is said for long."""
        self._doing, self._since = what, time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, doing=what)

    @contextmanager
    def phase(self, name: str, steps: int) -> Iterator[None]:
        """A bar of so many steps; on a terminal only."""
        self.say(f"{name}: {steps} {'step' if steps == 1 else 'steps'}")
        if not self._console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        fields = (TextColumn("{task.fields[said]}"), TimeRemainingColumn(), TextColumn("{task.fields[doing]}"))
        with Bar(*columns, *fields, console=self._console) as self._bar:
            self._task = self._bar.add_task(name, total=steps, said="", doing="")
            try:
                yield
            finally:
                self._bar = self._task = None

    def step_done(self) -> None:
        """One step of the phase."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, doing="")

    def logged(self, step: str, said: str) -> None:
        """What a line of the log says, beside the bar or as a line; plain lines keep their distance in time."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, said=said)
        elif time.monotonic() - self._said >= self._every:
            self.say(f"{step}: {said}")

    def _remind(self) -> None:
        while not self._ended.wait(min(self._every / 4, 1.0)):
            now = time.monotonic()
            if self._bar is None and now - self._said >= self._every:
                self.say(f"{self._doing} ... {now - self._since:.0f} s")
