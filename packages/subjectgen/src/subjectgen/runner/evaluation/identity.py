"""What an image depends on: equal identity, equal image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from subjectgen.core import Changes
from subjectgen.core.roles import values
from subjectgen.runner.evaluation.cases import Cases
from subjectgen.runner.evaluation.image_store import digest
from subjectgen.runner.system.settings import ComparisonSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.system.trained import trained_folder


def settings_of(system: System, cases: Cases, settings: ComparisonSettings) -> dict[str, Any]:
    """Everything that changes the images of a variant; what changes nothing is left out."""
    experiment = system.experiment
    return {
        "parts": {
            part.where: {
                "name": part.name,
                "version": part.offer.version,
                **part.values(Changes.WEIGHTS),
                **part.values(Changes.RESULTS),
            }
            for part in experiment.parts.model()
        },
        "image": values(experiment.settings.image, Changes.RESULTS),
        "memory": values(experiment.settings.memory, Changes.RESULTS),
        "seed": experiment.settings.seed,
        "trained": None if system.trained is None else folder_digest(trained_folder(system.trained)),
        "dataset": dict(settings.dataset),
        "keys": digest(cases.keys),
    }


def folder_digest(folder: Path) -> str:
    """A hash of the weights in a folder."""
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        found.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()[:16]
