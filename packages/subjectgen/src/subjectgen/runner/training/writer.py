"""Writes checkpoints beside training: one thread, one checkpoint at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """As a context. A new piece of work waits until the one before is done; at the end all is done, or told."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(wait=True)
        if error[0] is None:
            self.finish()

    def begin(self, work: Callable[[], None]) -> None:
        """Begin, once what was begun before is done.

        Raises:
            SubjectgenError: What went wrong in the work before.
        """
        self.finish()
        self._last = self._threads.submit(work)

    def finish(self) -> None:
        """Wait for what was begun; raises what went wrong in it, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
