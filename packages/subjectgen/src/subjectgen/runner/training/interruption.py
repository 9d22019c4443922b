"""Ctrl-C and SIGTERM in training: the step is finished, its weights are saved, and the exit code says so."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from subjectgen.core import SubjectgenError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SubjectgenError):  # noqa: N818  # a user's wish, no error
    """A signal ended the work; what it leaves behind is in order."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"{signal.Signals(number).name}: {message}")
        self.exit_code = 128 + number
        """What shells expect of a program that a signal ended."""


class Interruption:
    """Listens for signals as a context.

    Until :meth:`finish_steps` is called, a signal ends the context at once with :class:`Interrupted`, for there is
    nothing to save. After it, the first one is only noted in ``asked``; the second ends the context.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that came."""
        self._finishing = False
        self._before: dict[int, Any] = {}
        self._why = "stopped before the first step; nothing was written"

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # only there may anybody listen
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.asked is not None and isinstance(error, KeyboardInterrupt):
            raise Interrupted(self.asked, self._why) from None

    def finish_steps(self) -> None:
        """From now on there is something to save."""
        self._finishing = True

    def after(self, step: int, folder: Path, number: int) -> Interrupted:
        """What to raise once a step is saved, after a signal that this process or another one heard."""
        return Interrupted(
            number,
            f"stopped after step {step}, which is saved in {folder}. To go on: subjectgen train --resume {folder}",
        )

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        at_once = not self._finishing or self.asked is not None
        if self.asked is not None:
            self._why = "stopped at once, in the middle of a step; earlier checkpoints stay (--resume)"
        self.asked = number
        if at_once:
            raise KeyboardInterrupt  # passes through parts that catch what they can
        name = signal.Signals(number).name
        # Not print: the signal may have come while it was writing.
        os.write(2, f"\n{name}: finishing this step and saving; once more stops at once\n".encode())
