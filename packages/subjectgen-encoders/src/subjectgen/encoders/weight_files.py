"""Weights on disk, looked at before a library reads them: every file there, and whole."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from subjectgen.core import CheckpointError

TRANSFORMERS = "model"
"""What transformers calls its weights."""
DIFFUSERS = "diffusion_pytorch_model"
"""What diffusers calls its weights."""


def weight_files(stem: str) -> tuple[str, str]:
    """Where weights may be: in one file, or in the shards that an index lists."""
    return f"{stem}.safetensors", f"{stem}.safetensors.index.json"


def shards(file: Path) -> list[str]:
    """Names of the files that hold the weights: those an index lists, or the one file itself."""
    if file.suffix == ".safetensors":
        return [file.name]
    try:
        return sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: expected JSON with a weight_map ({error!r})") from error


def check_weight_files(file: Path) -> None:
    """Raise unless all weights can be read to their end; only headers are read.

    Args:
        file: One of :func:`weight_files`.

    Raises:
        CheckpointError: Names the file that is missing, damaged or shorter than its header says.
    """
    names = shards(file)
    missing = [name for name in names if not (file.parent / name).is_file()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{file.parent / missing[0]} is missing{others}: {file.name} lists {len(names)} shards")
    for name in names:
        _check_whole(file.parent / name)


def _check_whole(file: Path) -> None:
    """The header must be readable, and the file as long as the header says."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        size = f"{file.stat().st_size:,} bytes"
        raise CheckpointError(f"{file} is truncated or damaged ({size}): {error}; download it again") from error
