"""What a model's files hold, from the headers of safetensors and their index; no weight is read before it is asked for.

Libraries fill what a checkpoint lacks with random numbers, or leave it without any; so every file must be there, be
whole, and hold what the index says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open

from subjectgen.core.errors import CheckpointError
from subjectgen.core.json_files import read_json

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Tensors by name."""


def tensor_shapes(file: Path) -> Shapes:
    """Names and shapes of a safetensors file's tensors, from its header.

    Raises:
        CheckpointError: The file is cut off or of another format.
    """
    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        size = f"{file.stat().st_size:,} bytes" if file.exists() else "missing"
        raise CheckpointError(f"{file} is truncated or damaged ({size}): {error}; download it again") from error


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One model's weights: a safetensors file, or the shards that an index lists."""

    file: Path
    """The safetensors file, or the index."""

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.file.parent

    @cached_property
    def places(self) -> Mapping[str, str] | None:
        """File name of each tensor, as the index says; ``None`` without an index."""
        if self.file.suffix == ".safetensors":
            return None
        places = read_json(self.file).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
            raise CheckpointError(f"{self.file} is damaged: expected a weight_map from names to files")
        return places

    @property
    def names(self) -> list[str]:
        """Names of the safetensors files."""
        return [self.file.name] if self.places is None else sorted(set(self.places.values()))

    def shapes(self) -> Shapes:
        """All tensors by name; only headers are read.

        Raises:
            CheckpointError: A file that is missing or cut off, or lacks what the index says it has.
        """
        missing = [name for name in self.names if not (self.folder / name).is_file()]
        if missing:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{self.folder / missing[0]} is missing{others}: {self.file.name} lists {len(self.names)} files"
            )
        held = {name: tensor_shapes(self.folder / name) for name in self.names}
        if self.places is None:
            return held[self.file.name]
        for tensor, name in self.places.items():
            if tensor not in held[name]:
                raise CheckpointError(f"{self.folder / name} has no {tensor}, which {self.file.name} says it has")
        return {tensor: held[name][tensor] for tensor, name in self.places.items()}

    def tensors(self) -> dict[str, Any]:
        """Read all of the weights, as torch tensors by name."""
        from safetensors.torch import load_file

        read = {name: load_file(self.folder / name) for name in self.names}
        return {tensor: value for tensors in read.values() for tensor, value in tensors.items()}
