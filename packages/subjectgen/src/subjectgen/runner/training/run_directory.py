"""A run directory describes itself: resolved experiment, plugins, versions, git state, log, checkpoints.

Every folder in it appears whole or not at all; ``trained/`` is there once the run has ended.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from subjectgen.core import InputError
from subjectgen.core.claims import claim_folder
from subjectgen.core.files import atomic_write, is_hidden, recover_folder
from subjectgen.core.json_files import write_json
from subjectgen.runner.system.identity import portable
from subjectgen.runner.system.settings import TrainingSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.system.trained import CHECKPOINTS, FOLDER, RESOLVED, checkpoints, save_trained
from subjectgen.runner.training.snapshot import Snapshot, write

RUN = "run.json"
METRICS, PROBE, CURVES, SAMPLES = "metrics.jsonl", "probe.jsonl", "curves.png", "samples"
LOGS = (METRICS, PROBE)
TRACKED = ("trackers.json", "tensorboard")
"""What trackers keep in the run's folder."""
VERSIONS = ("torch", "transformers", "diffusers", "peft", "accelerate")


class RunDirectory:
    """Files of one training run. Made by :meth:`claimed` or :meth:`resumed`; only the first process writes."""

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self._begun = False

    @classmethod
    @contextmanager
    def claimed(cls, folder: Path, *, writes: bool = True) -> Iterator[RunDirectory]:
        """A folder for a new run, for this process alone.

        A folder that a run left without a checkpoint is used again.

        Raises:
            InputError: Another run uses it, or it holds something; says what to do.
        """
        if not writes:
            yield cls(folder, writes=False)
            return
        with claim_folder(folder, new=False) as place:
            _check_free(place)
            yield cls(folder)

    @classmethod
    @contextmanager
    def resumed(cls, folder: Path, *, writes: bool = True) -> Iterator[RunDirectory]:
        """The folder of a run that goes on, for this process alone.

        Raises:
            InputError: Another process uses it, or it holds no run.
        """
        if not (folder / RUN).is_file():
            raise InputError(f"{folder}: holds no run to go on with; expected a folder that subjectgen train wrote")
        if not writes:
            yield cls(folder, writes=False)
            return
        with claim_folder(folder, new=False, what="--resume"):
            for unfinished in (folder / CHECKPOINTS).glob(".step-*.part"):  # nobody else writes here
                shutil.rmtree(unfinished, ignore_errors=True)
            yield cls(folder)

    @property
    def checkpoints(self) -> list[Path]:
        """Folders of checkpoints, oldest first."""
        return checkpoints(self.folder)

    @property
    def last_good(self) -> str:
        """Which checkpoint there is, for messages."""
        kept = self.checkpoints
        if not kept:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is that of step {_step(kept[-1])} ({kept[-1]})"

    def begin(self, system: System, data: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Write what is known when the first step was made; later calls do nothing.

        Args:
            system: Of the run.
            data: Gives fingerprints of the data sets; asked for only where they are written.
        """
        if self._begun:
            return
        self._begun = True
        if not self.writes or ((self.folder / RUN).is_file() and self.checkpoints):
            return
        values = {"name": system.experiment.name, **system.experiment.values, "trained": f"./{FOLDER}"}
        values = anchored(values, self.folder)
        started = anchored(system.experiment.settings.trained, self.folder)
        with self._writing():
            for old in _leftovers(self.folder):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            with atomic_write(self.folder / RESOLVED) as path:
                path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
            write_json(self.folder / RUN, {**_description(system), "trained_before": started, "datasets": list(data())})

    def log(self, line: Mapping[str, Any], file: str = METRICS) -> None:
        """Append one line to ``metrics.jsonl``, or to another log."""
        if self.writes:
            with self._writing(), (self.folder / file).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop lines of all logs of later steps: they will be made again."""
        for log in (self.folder / name for name in LOGS if self.writes):
            if log.is_file():
                kept = [line for line in lines_of(log) if line["step"] <= step]
                with self._writing(), atomic_write(log) as path:
                    path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def write(self, snapshot: Snapshot, system: System, known: Mapping[str, Any], settings: TrainingSettings) -> None:
        """Write a checkpoint and remove those that are not to be kept; ``known``: facts of the system.

        Raises:
            InputError: A disk that is full; the checkpoints before stay.
        """
        if not self.writes:
            return
        step = snapshot.record["step"]
        with self._writing():
            write(snapshot, system, self.folder / CHECKPOINTS / f"step-{step:08d}", known)
            for old in self.checkpoints[: -settings.keep_last]:
                if not settings.keep_every or _step(old) % settings.keep_every:
                    shutil.rmtree(old, ignore_errors=True)

    def finish(self, snapshot: Snapshot, system: System, known: Mapping[str, Any]) -> None:
        """Write what the run was for: its trained parts, averaged where there is an average."""
        if not self.writes:
            return
        averaged = snapshot.average is not None
        known = {**known, "step": snapshot.record["step"], "averaged": averaged}
        values = {**snapshot.values, **(snapshot.average or {})}
        with self._writing():
            save_trained(system, self.folder / FOLDER, known, values)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:  # what core says of disks
            raise InputError(f"{error}; {self.last_good}") from error
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.folder}: cannot be written: {error}; {self.last_good}") from error


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    """Lines of a log; none where there is no file. A line that a crash cut short, or is unfinished, is left out."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        with suppress(ValueError):
            yield json.loads(line)


def anchored(value: Any, folder: Path) -> Any:
    """Absolute paths inside the working directory as paths from ``folder``: a file in it says them so."""
    if isinstance(value, Mapping):
        return {key: anchored(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [anchored(inner, folder) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute() and Path(value).is_relative_to(Path.cwd()):
        return os.path.join(".", os.path.relpath(value, folder))
    return value


def _description(system: System) -> dict[str, Any]:
    experiment = system.experiment
    return {
        "command": shlex.join(["subjectgen", *sys.argv[1:]]),
        "experiment": experiment.name,
        "started_from": None if system.trained is None else portable(system.trained),
        "seed": experiment.settings.seed,
        "plugins": experiment.plugins.distributions(),
        "versions": {name: version(name) for name in VERSIONS},
        "python": platform.python_version(),
        "device": str(system.device),
        "threads": torch.get_num_threads(),
        "git": _git_state(),
        "parts": system.describe(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the working directory and whether it has changes; ``None`` outside a repository."""
    try:
        commit, status = (
            subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(status)}


# -------------------------------------------------------------------------------------------------- free or not


def _check_free(folder: Path) -> None:
    """Whether a run may begin here.

    Raises:
        InputError: A finished checkpoint, or files of somebody else.
    """
    recover_folder(folder / FOLDER)
    if (folder / RUN).exists() and ((folder / FOLDER).exists() or checkpoints(folder)):
        raise InputError(
            f"{folder}: holds a run with a checkpoint; expected a new folder (--out). To go on with it: subjectgen "
            f"train --resume {folder}; to train on from its weights: --set trained={folder} --out ANOTHER"
        )
    own = {*_leftovers(folder), folder / CHECKPOINTS, *(folder / name for name in TRACKED)}
    strange = [path for path in folder.iterdir() if not is_hidden(path.name) and path not in own]
    if strange:
        raise InputError(f"{folder}: exists and holds {strange[0].name}; expected a new or empty folder (--out)")


def _leftovers(folder: Path) -> list[Path]:
    """What a run left that ended before its first checkpoint."""
    return [path for name in (RESOLVED, RUN, *LOGS, CURVES, SAMPLES) if (path := folder / name).exists()]
