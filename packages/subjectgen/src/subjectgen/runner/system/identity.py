"""What an image depends on, beside prompt, references and seed: equal identity, equal image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from subjectgen.core import Changes
from subjectgen.core.roles import values
from subjectgen.runner.system.system import System
from subjectgen.runner.system.trained import trained_folder


def identity(system: System) -> dict[str, Any]:
    """Parts with the options that change numbers, precision, and a hash of trained weights; as JSON holds it."""
    experiment = system.experiment
    return {
        "parts": {
            part.where: {"name": part.name, **part.values(Changes.WEIGHTS), **part.values(Changes.RESULTS)}
            for part in experiment.parts.model()
        },
        "memory": values(experiment.settings.memory, Changes.RESULTS),
        "seed": experiment.settings.seed,
        "trained": None if system.trained is None else folder_digest(trained_folder(system.trained)),
    }


def folder_digest(folder: Path) -> str:
    """A hash of the weights in a folder."""
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        found.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()[:16]


def portable(path: str) -> str:
    """A path as it may be told to others: relative to the working directory, or its last two names."""
    place = Path(path)
    if not place.is_absolute():
        return path
    working = Path.cwd()
    return str(place.relative_to(working)) if place.is_relative_to(working) else "/".join(place.parts[-2:])
