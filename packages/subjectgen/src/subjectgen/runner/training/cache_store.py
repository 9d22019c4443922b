"""Where cached results are kept: entries of named tensors, by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

Entry: TypeAlias = Mapping[str, Tensor]
"""What is kept under one key: tensors on the CPU, in the data type in which they were made."""


@runtime_checkable
class Store(Protocol):
    """Entries by key. Whoever asks twice gets the same bits."""

    def held_bytes(self) -> int:
        """Bytes of what it holds."""
        ...

    def get(self, key: str) -> Entry | None:
        """The entry of a key; ``None`` where there is none."""
        ...

    def put(self, key: str, entry: Entry) -> Entry:
        """Keep copies of the tensors; returns the entry as it is kept."""
        ...

    def flush(self) -> None:
        """Put what only memory holds where it outlives the process, if there is such a place."""
        ...

    def forget(self) -> None:
        """Data sets have changed: let go of what only takes memory."""
        ...


class MemoryStore:
    """In the CPU's memory, for one run."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def held_bytes(self) -> int:
        """Bytes of what it holds."""
        return sum(entry_bytes(entry) for entry in self._entries.values())

    def get(self, key: str) -> Entry | None:
        """The entry of a key; ``None`` where there is none."""
        return self._entries.get(key)

    def put(self, key: str, entry: Entry) -> Entry:
        """Keep copies of the tensors; returns the entry as it is kept."""
        return self._entries.setdefault(key, copied(entry))

    def flush(self) -> None:
        """Nothing: there is no other place."""

    def forget(self) -> None:
        """Let go of all entries."""
        self._entries.clear()


def copied(entry: Entry) -> dict[str, Tensor]:
    """Copies on the CPU that share memory with nothing: a row must not keep its whole batch alive."""
    return {name: value.detach().contiguous().to("cpu", copy=True) for name, value in entry.items()}


def entry_bytes(entry: Entry) -> int:
    """Bytes of an entry's tensors."""
    return sum(value.numel() * value.element_size() for value in entry.values())
