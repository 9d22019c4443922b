"""A run directory describes itself: resolved experiment, plugins, versions, git state, log, trained parts.

``trained/`` is replaced as a whole, so a crash leaves the last checkpoint or the one before it.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from subjectgen.core import CheckpointError, InputError
from subjectgen.core.claims import claim_folder
from subjectgen.core.files import atomic_write, is_hidden, recover_folder
from subjectgen.core.json_files import write_json
from subjectgen.runner.system.identity import portable
from subjectgen.runner.system.system import System
from subjectgen.runner.system.trained import FOLDER, RESOLVED, facts, save_trained
from subjectgen.runner.training.batches import TrainingData
from subjectgen.runner.training.data_fingerprint import data_fingerprint

RUN = "run.json"
METRICS = "metrics.jsonl"
VERSIONS = ("torch", "transformers", "diffusers", "peft", "accelerate")


class RunDirectory:
    """Files of one training run. Made by :meth:`claimed`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint: int | None = None
        """Step of the last finished checkpoint."""
        self._begun = False
        self._facts: dict[str, Any] = {}

    @classmethod
    @contextmanager
    def claimed(cls, folder: Path) -> Iterator[RunDirectory]:
        """The folder, for this process alone.

        A folder that a run left without a checkpoint is used again.

        Raises:
            InputError: Another run uses it, or it holds something; says what to do.
        """
        with claim_folder(folder, new=False) as place:
            _check_free(place)
            yield cls(folder)

    @property
    def last_good(self) -> str:
        """Which checkpoint there is, for messages."""
        if self.checkpoint is None:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is that of step {self.checkpoint} ({self.folder / FOLDER})"

    def begin(self, system: System, data: Sequence[TrainingData]) -> None:
        """Write what is known when the first step was made; later calls do nothing."""
        if self._begun:
            return
        self._begun = True
        self._facts = facts(system)
        values = {"name": system.experiment.name, **system.experiment.values, "trained": f"./{FOLDER}"}
        values = anchored(values, self.folder)
        with self._writing():
            for old in _leftovers(self.folder):
                old.unlink()
            with atomic_write(self.folder / RESOLVED) as path:
                path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
            fingerprints = [data_fingerprint(one.part, one.dataset) for one in data]
            write_json(self.folder / RUN, {**_description(system), "datasets": fingerprints})

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with self._writing(), (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self, system: System, step: int) -> None:
        """Replace the checkpoint, unless it is that of this step already.

        Raises:
            CheckpointError: A value that is not finite; the checkpoint before it stays.
            InputError: A disk that is full; so it does then.
        """
        if self.checkpoint == step:
            return
        with self._writing():
            try:
                save_trained(system, self.folder / FOLDER, {**self._facts, "step": step})
            except CheckpointError as error:
                raise CheckpointError(f"step {step}: {error}; {self.last_good}") from None
        self.checkpoint = step

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:  # what core says of disks
            raise InputError(f"{error}; {self.last_good}") from error
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.folder}: cannot be written: {error}; {self.last_good}") from error


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
    if (folder / FOLDER).exists() and (folder / RUN).exists():
        raise InputError(
            f"{folder}: holds a run with a checkpoint; expected a new folder (--out). To go on from its weights: "
            f"--set trained={folder} --out ANOTHER"
        )
    strange = [path for path in folder.iterdir() if not is_hidden(path.name) and path not in _leftovers(folder)]
    if strange:
        raise InputError(f"{folder}: exists and holds {strange[0].name}; expected a new or empty folder (--out)")


def _leftovers(folder: Path) -> list[Path]:
    """Files of a run that ended before its first checkpoint."""
    return [path for name in (RESOLVED, RUN, METRICS) if (path := folder / name).is_file()]
