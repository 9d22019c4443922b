"""``config.json`` of a checkpoint without a download: shipped for published models, read from a local folder."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from subjectgen.core import CheckpointError, nearest, resolve_checkpoint

_ROOT = "subjectgen.runner.planning"


def shipped_ids() -> list[str]:
    """Hub ids whose sizes come with this package."""
    owners = (entry for entry in _configs().iterdir() if entry.is_dir())
    return sorted(f"{owner.name}/{model.name}" for owner in owners for model in owner.iterdir() if model.is_dir())


def is_local(checkpoint: str) -> bool:
    """Whether the checkpoint lies on this machine: a folder or ``package:...``."""
    return checkpoint.startswith("package:") or Path(checkpoint).expanduser().exists()


def find_config(checkpoint: str, subfolder: str = "", filename: str = "config.json") -> dict[str, Any] | None:
    """The file's content; ``None`` if the checkpoint has no such file.

    Raises:
        CheckpointError: A hub id that is not shipped, a folder that does not exist, or a file that is no JSON.
    """
    root = Path(resolve_checkpoint(checkpoint)) if is_local(checkpoint) else _shipped(checkpoint)
    place = root.joinpath(*PurePosixPath(subfolder).parts, filename)
    if not place.is_file():
        return None
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {checkpoint!r}: {place.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"checkpoint {checkpoint!r}: {place.name} holds no mapping")
    return found


def read_config(checkpoint: str, subfolder: str = "", filename: str = "config.json") -> dict[str, Any]:
    """As :func:`find_config`, but a missing file is an error.

    Raises:
        CheckpointError: Also if the checkpoint has no such file.
    """
    found = find_config(checkpoint, subfolder, filename)
    if found is None:
        raise CheckpointError(f"checkpoint {checkpoint!r} has no {PurePosixPath(subfolder) / filename}")
    return found


def _configs() -> Any:
    return resources.files(_ROOT) / "configs"


def _shipped(checkpoint: str) -> Any:
    known = shipped_ids()
    if checkpoint not in known:
        raise CheckpointError(
            f"checkpoint {checkpoint!r}: its sizes are not known without a download{nearest(checkpoint, known)}; "
            f"expected a local folder or one of {', '.join(known)}"
        )
    return _configs() / checkpoint
