"""What is wrong with a local folder or file of weights, said before anything is loaded.

diffusers fills what a checkpoint lacks with random numbers, or leaves it without any; so names and shapes are compared
here, from the headers of the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open

from subjectgen.core import CheckpointError

EXPECTED = "FluxTransformer2DModel"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Tensors by name."""


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a folder in diffusers' format.

    Raises:
        CheckpointError: no configuration, or another architecture.
    """
    file = folder / "config.json"
    if not file.is_file():
        hint = "; did you mean subfolder 'transformer'?" if (folder / "transformer").is_dir() else ""
        raise CheckpointError(f"{folder}: no config.json; expected a {EXPECTED} in diffusers' format{hint}")
    config = _read_json(file)
    name = config.get("_class_name")
    if name != EXPECTED:
        raise CheckpointError(f"{file}: describes {f'a {name}' if name else 'no model'}; expected a {EXPECTED}")
    return config


def check_tensors(folder: Path, expected: Shapes) -> None:
    """Compare the tensors of a folder in diffusers' format with those of the model; only headers are read.

    Raises:
        CheckpointError: a file that is missing or cut off, or tensors that are missing, unexpected or of another shape.
    """
    found = _folder_shapes(folder)
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(expected)} tensors are missing, such as {min(missing)}"
        )
    if unknown:
        raise CheckpointError(f"{folder}: config.json has no place for {len(unknown)} tensors, such as {min(unknown)}")
    wrong = sorted(name for name in found if found[name] != expected[name])
    if wrong:
        raise CheckpointError(
            f"{folder}: {wrong[0]} has shape {found[wrong[0]]}; expected {expected[wrong[0]]} by config.json"
            f" ({len(wrong)} of {len(found)} tensors differ)"
        )


def tensor_shapes(file: Path) -> Shapes:
    """Names and shapes of a safetensors file's tensors, from its header.

    Raises:
        CheckpointError: the file is cut off or of another format.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: truncated, or not a safetensors file ({error})") from error


def _folder_shapes(folder: Path) -> Shapes:
    if (folder / INDEX).is_file():
        return _shard_shapes(folder)
    if (folder / WEIGHTS).is_file():
        return tensor_shapes(folder / WEIGHTS)
    there = ", ".join(sorted(file.name for file in folder.glob("*.safetensors"))) or "no safetensors file"
    raise CheckpointError(f"{folder}: no weights; expected {WEIGHTS} or {INDEX}, found {there}")


def _shard_shapes(folder: Path) -> Shapes:
    """All tensors of the shards that the index lists, each where it says."""
    places = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise CheckpointError(f"{folder / INDEX}: expected a weight_map from names to files")
    shards = sorted(set(places.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} of {len(shards)} shards are missing, such as {missing[0]}")
    held = {shard: tensor_shapes(folder / shard) for shard in shards}
    for name, shard in places.items():
        if name not in held[shard]:
            raise CheckpointError(f"{folder / shard}: has no {name}, which {INDEX} says it has")
    return {name: held[shard][name] for name, shard in places.items()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got a {type(content).__name__}")
    return content
