"""Checkpoints of a run while it goes on, and its curves beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from subjectgen.runner.system.settings import TrainingSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.training.curves import Curves
from subjectgen.runner.training.run_directory import RunDirectory
from subjectgen.runner.training.snapshot import Snapshot
from subjectgen.runner.training.writer import Writer


class Saving:
    """As a context, at whose end all is written. Writes beside training, one checkpoint at a time."""

    def __init__(
        self,
        run: RunDirectory,
        system: System,
        known: Mapping[str, Any],
        settings: TrainingSettings,
        *,
        say: Callable[[str], None],
    ) -> None:
        """``known``: facts that are kept beside trained parts."""
        self._run, self._system, self._known, self._settings = run, system, known, settings
        self._curves = Curves(run.folder, say=say) if settings.curves and run.writes else None
        self._writer = Writer()
        self.step = -1
        """Of the last checkpoint."""

    def __enter__(self) -> Saving:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a checkpoint, unless it is that of the last step that was written."""
        if self.step != snapshot.record["step"]:
            self.step = snapshot.record["step"]
            self._writer.begin(lambda: self._write(snapshot))

    def end(self, snapshot: Snapshot) -> None:
        """Begin to write what the run was for."""
        self._writer.begin(lambda: self._end(snapshot))

    def finish(self) -> None:
        """Wait for what was begun."""
        self._writer.finish()

    def _write(self, snapshot: Snapshot) -> None:
        self._run.write(snapshot, self._system, self._known, self._settings)
        if self._curves is not None:
            self._curves.draw_at_times()

    def _end(self, snapshot: Snapshot) -> None:
        self._run.finish(snapshot, self._system, self._known)
        if self._curves is not None:
            self._curves.draw()
