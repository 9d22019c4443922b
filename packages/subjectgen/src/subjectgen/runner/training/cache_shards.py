"""One shard of a cache on disk: a safetensors file with many entries, a checksum of each, and whose they are.

Tensors are called ``KEY/NAME``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from subjectgen.core import CheckpointError
from subjectgen.core.files import atomic_write
from subjectgen.runner.training.cache_store import Entry


def write_shard(file: Path, entries: Mapping[str, Entry], identity: str) -> None:
    """Write a shard, which appears whole or not at all.

    Args:
        file: A name that nobody else uses.
        entries: By key.
        identity: Digest of what made them.

    Raises:
        InputError: No space or no permission; names the file.
    """
    tensors = {f"{key}/{name}": value for key, entry in entries.items() for name, value in entry.items()}
    checksums = json.dumps({name: _checksum(value) for name, value in tensors.items()})
    with atomic_write(file) as temporary:
        save_file(tensors, temporary, metadata={"identity": identity, "checksums": checksums})


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """A shard of which the header was read."""

    file: Path
    identity: str
    names: Mapping[str, list[str]]
    """Of the tensors of each key."""
    checksums: Mapping[str, int]

    @classmethod
    def opened(cls, file: Path) -> Shard:
        """Read a shard's header.

        Raises:
            CheckpointError: It is cut off, or of another format.
        """
        try:
            with safe_open(file, framework="pt") as stream:
                metadata, found = stream.metadata() or {}, list(stream.keys())
            identity, checksums = metadata["identity"], json.loads(metadata["checksums"])
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{file} is damaged ({error})") from error
        names: dict[str, list[str]] = {}
        for name in found:
            key, _, rest = name.partition("/")
            names.setdefault(key, []).append(rest)
        return cls(file=file, identity=identity, names=names, checksums=checksums)

    def read(self, key: str) -> Entry:
        """An entry, every byte of it looked at.

        Raises:
            CheckpointError: It is not what was written.
        """
        try:
            entry = {name: self._stream.get_tensor(f"{key}/{name}").clone() for name in self.names[key]}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.file} is damaged ({error})") from error
        for name, value in entry.items():
            if _checksum(value) != self.checksums.get(f"{key}/{name}"):
                raise CheckpointError(f"{self.file} is damaged (entry {key} has another checksum)")
        return entry

    @cached_property
    def _stream(self) -> Any:
        return safe_open(self.file, framework="pt")


def _checksum(value: Tensor) -> int:
    return zlib.crc32(value.contiguous().flatten().view(torch.uint8).numpy().data)
