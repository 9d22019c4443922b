"""The log of a run, also in trackers, through accelerate's own. What ails a tracker never ends a run."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from subjectgen.core import InputError
from subjectgen.core.errors import one_line
from subjectgen.core.json_files import read_json, write_json
from subjectgen.runner.training.run_directory import LOGS, METRICS, TRACKED, lines_of

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX")}
"""Modules of which a tracker needs one, where they are not called as it is."""
STATE, TENSORBOARD = TRACKED


def check_trackers(names: Sequence[str]) -> None:
    """Whether their packages are there.

    Raises:
        InputError: One is not; says how to get it.
    """
    for name in names:
        if not any(find_spec(module) for module in PACKAGES.get(name, (name,))):
            raise InputError(f"training.trackers: {name}: not installed; get it by: pip install {name}")


class Trackers:
    """As a context: from the first line to the last. A run that goes on sends no step twice."""

    def __init__(self, names: Sequence[str], folder: Path, *, say: Callable[[str], None]) -> None:
        """Look at what was sent before, so before the run's logs are cut to its checkpoint.

        Args:
            names: Of the trackers; none in processes that do not write.
            folder: Of the run, whose name the trackers show.
            say: For what fails.
        """
        self._open: dict[str, GeneralTracker] = {}
        self._names, self._folder, self._say = tuple(names), folder, say
        kept = read_json(folder / STATE) if names and (folder / STATE).is_file() else {}
        self._id: str = kept.get("id", "")
        self._sent: dict[str, int] = {}
        """Last step of each log that went out before, in whichever session of the run."""
        for log in LOGS if names else ():
            steps = [line["step"] for line in lines_of(folder / log)]
            self._sent[log] = max([kept.get("sent", {}).get(log, 0), *steps])

    def going_on_after(self, step: int) -> Trackers:
        """For entering: the step that was made last. A run that starts again at 0 is a new one to its trackers."""
        if self._names and not step:
            self._id, self._sent = "", {}
            (self._folder / STATE).unlink(missing_ok=True)
            shutil.rmtree(self._folder / TENSORBOARD, ignore_errors=True)
        return self

    def __enter__(self) -> Trackers:
        """Begin.

        Raises:
            InputError: A tracker that does not start; says why.
        """
        if self._names:
            self._id = self._id or uuid.uuid4().hex[:12]
            write_json(self._folder / STATE, {"id": self._id, "sent": self._sent})
        for name in self._names:
            try:
                self._open[name] = self._started(name)
            except Exception as error:
                self.__exit__()
                raise InputError(f"training.trackers: {name}: does not start: {one_line(error)}") from error
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.finish)
        self._open.clear()

    def log(self, line: Mapping[str, Any], log: str = METRICS) -> None:
        """Numbers of a line, nested ones as ``loss_by_stage/early``, those of another log as ``probe/loss``."""
        if line["step"] <= self._sent.get(log, 0):
            return
        values = dict(_flat(line, "" if log == METRICS else Path(log).stem))
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(values, step=line["step"]))  # type: ignore[misc]

    def _started(self, name: str) -> GeneralTracker:
        kind = LOGGER_TYPE_TO_CLASS[name]
        if kind.requires_logging_directory:
            tracker = kind(TENSORBOARD, logging_dir=str(self._folder))
        else:
            going_on = {"id" if name == "wandb" else "name": f"{self._folder.name}-{self._id}", "resume": "allow"}
            tracker = kind(self._folder.name, **going_on)
        tracker.start()
        return tracker

    def _try(self, name: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:  # a network, an account, a disk
            self._open.pop(name, None)
            self._say(f"training.trackers: {name} fails and is left out from now on: {one_line(error)}")


def _flat(line: Mapping[str, Any], path: str = "") -> list[tuple[str, float]]:
    found = []
    for key, value in line.items():
        name = f"{path}/{key}" if path else key
        if isinstance(value, Mapping):
            found += _flat(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, value))
    return found
