"""A run directory describes itself: resolved experiment, plugins, versions, git state, log, trained parts."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from subjectgen.core import Dataset, InputError
from subjectgen.core.files import atomic_write
from subjectgen.runner.assemble import System
from subjectgen.runner.saving import write_json

RESOLVED = "experiment.yaml"


class RunDirectory:
    """Files of one training run."""

    def __init__(self, folder: Path, system: System) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: exists and is not empty; expected a new folder (--out)")
        self.folder, self._system = folder, system

    def begin(self, datasets: Sequence[Dataset]) -> None:
        """Write what is known before the first step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {"name": self._system.experiment.name, **self._system.experiment.values}
        with atomic_write(self.folder / RESOLVED) as path:
            path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        write_json(self.folder / "run.json", {**self._facts(), "datasets": [fingerprint(one) for one in datasets]})

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save_trained(self) -> None:
        """Write the trained parts; each file is replaced in one step."""
        self._system.save_trained(self.folder)

    def _facts(self) -> dict[str, Any]:
        return {
            "command": " ".join(["subjectgen", *sys.argv[1:]]),
            "experiment": self._system.experiment.name,
            "seed": self._system.experiment.settings.seed,
            "plugins": self._system.plugins.distributions(),
            "versions": {name: version(name) for name in ("torch", "transformers", "diffusers", "peft", "accelerate")},
            "python": platform.python_version(),
            "device": str(self._system.device),
            "threads": torch.get_num_threads(),
            "git": _git_state(),
            "parts": self._system.describe(),
        }


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Length and a hash of the first, middle and last sample: whether two runs saw the same data."""
    digest = hashlib.sha256()
    for index in sorted({0, len(dataset) // 2, len(dataset) - 1}):
        sample = dataset[index]
        digest.update(sample.prompt.encode())
        images = [reference.image for reference in sample.references] + [sample.target]
        for image in images:
            if image is not None:
                digest.update((image * 255).round().byte().numpy().tobytes())
    return {"samples": len(dataset), "sha256": digest.hexdigest()}


def _git_state() -> dict[str, Any] | None:
    """Commit of the working directory and whether it has changes; ``None`` outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(status.stdout.strip())}
