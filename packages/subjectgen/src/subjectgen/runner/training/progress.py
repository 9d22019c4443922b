"""What training says while it runs: a bar on a terminal; plain lines without one, also while one thing takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TaskID, TextColumn

from subjectgen.runner.training.pace import Pace

EVERY = 15.0
"""Seconds between plain lines."""


class Progress:
    """As a context: from the first line to the last."""

    def __init__(self, console: Console | None = None, *, every: float = EVERY) -> None:
        self._console = console or Console(stderr=True)
        self._every = every
        self._doing, self._since = "", time.monotonic()
        self._said = time.monotonic()
        self._notes: dict[str, float] = {}
        self._pace: Pace | None = None
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

    def note(self, kind: str, text: str) -> None:
        """A line that comes again and again; in plain output those of a kind keep their distance in time."""
        now = time.monotonic()
        if self._console.is_terminal or now - self._notes.get(kind, now - self._every) >= self._every:
            self._notes[kind] = now
            self.say(text)

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
    def phase(self, name: str, steps: int, *, first: int = 0) -> Iterator[None]:
        """A bar of so many steps, of which the first ones were made before; on a terminal only."""
        self.say(
            f"{name}: {steps} {'step' if steps == 1 else 'steps'}" + (f", {first} of them made before" * bool(first))
        )
        self._pace = Pace(steps - first)
        try:
            with self._bar_of(name, steps, first):
                yield
        finally:
            self._pace = None

    @contextmanager
    def _bar_of(self, name: str, steps: int, first: int) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        fields = (TextColumn("{task.fields[said]}"), TextColumn("{task.fields[pace]}"))
        with Bar(*columns, *fields, TextColumn("{task.fields[doing]}"), console=self._console) as self._bar:
            self._task = self._bar.add_task(name, total=steps, completed=first, said="", pace="", doing="")
            try:
                yield
            finally:
                self._bar = self._task = None

    def step_done(self) -> None:
        """One step of the phase."""
        if self._pace is not None:
            self._pace.step_done()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, doing="", pace=str(self._pace))

    def looked(self, seconds: float) -> None:
        """Time that went into no step."""
        if self._pace is not None:
            self._pace.looked(seconds)

    def logged(self, step: str, said: str) -> None:
        """What a line of the log says, beside the bar or as a line; plain lines keep their distance in time."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, said=said)
        elif time.monotonic() - self._said >= self._every:
            self.say(self._with_pace(f"{step}: {said}"))

    def _remind(self) -> None:
        while not self._ended.wait(min(self._every / 4, 1.0)):
            now = time.monotonic()
            if self._bar is None and now - self._said >= self._every:
                self.say(self._with_pace(f"{self._doing} ... {now - self._since:.0f} s"))

    def _with_pace(self, text: str) -> str:
        pace = "" if self._pace is None else str(self._pace)
        return f"{text}; {pace}" if pace else text
