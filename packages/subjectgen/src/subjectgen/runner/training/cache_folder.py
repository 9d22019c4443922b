"""A cache in a folder: ``cache.json`` says what made it, and shards hold it. Many processes may read and write at once:
each writes shards of its own, whole, and finds those of the others when it writes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from subjectgen.core import CheckpointError
from subjectgen.core.files import visible_files
from subjectgen.runner.training.cache_identity import Identity, claim
from subjectgen.runner.training.cache_shards import Shard, write_shard
from subjectgen.runner.training.cache_store import Entry, copied, entry_bytes

SHARD = 256 * 2**20
"""Largest shard in bytes, but for a single entry that is larger."""


class FolderStore:
    """Entries in a folder's shards, and in memory those that are not yet written."""

    def __init__(self, folder: Path, identity: Identity, say: Callable[[str], None]) -> None:
        """Make the folder, or read the headers of what is there.

        Args:
            folder: Of this cache alone.
            identity: What makes its entries.
            say: Gets a line for each shard that is damaged; its entries are made again.

        Raises:
            ConfigError: Something else made what is there; names the keys that differ.
        """
        claim(folder, identity)
        self._folder, self._identity, self._say = folder, identity.digest, say
        self._pending: dict[str, Entry] = {}
        self._pending_bytes = 0
        self._places: dict[str, list[Shard]] = {}
        self._known: set[Path] = set()
        self._find()

    def held_bytes(self) -> int:
        """Bytes of the entries that can be read, and of those that are not yet written."""
        shards = {shard.file for places in self._places.values() for shard in places}
        return self._pending_bytes + sum(file.stat().st_size for file in shards if file.exists())

    def get(self, key: str) -> Entry | None:
        """The entry of a key, from the first shard in which it is whole; ``None`` where there is none."""
        if key in self._pending:
            return self._pending[key]
        places = self._places.get(key, [])
        while places:
            try:
                return places[0].read(key)
            except CheckpointError as error:
                self._say(f"{error}: the entry is made again")
                places.pop(0)
        self._places.pop(key, None)
        return None

    def put(self, key: str, entry: Entry) -> Entry:
        """Keep copies of the tensors, which reach the disk with the next shard; returns the entry as it is kept."""
        kept = copied(entry)
        if self._pending and self._pending_bytes + entry_bytes(kept) > SHARD:
            self.flush()
        if key not in self._pending:
            self._pending[key] = kept
            self._pending_bytes += entry_bytes(kept)
        return self._pending[key]

    def flush(self) -> None:
        """Write what memory holds as a shard, but for what others have written since, and find theirs.

        Raises:
            InputError: No space or no permission; names the file.
        """
        self._find()
        new = {key: entry for key, entry in self._pending.items() if key not in self._places}
        if new:
            file = self._folder / f"{uuid.uuid4().hex}.safetensors"
            write_shard(file, new, self._identity)
            self._add(file)
        self._pending, self._pending_bytes = {}, 0

    def forget(self) -> None:
        """Nothing: what is on the disk takes no memory."""

    def _find(self) -> None:
        for file in visible_files(self._folder, (".safetensors",)):
            if file not in self._known:
                self._add(file)

    def _add(self, file: Path) -> None:
        self._known.add(file)
        try:
            shard = Shard.opened(file)
        except CheckpointError as error:
            self._say(f"{error} and is passed over: its entries are made again; remove it")
            return
        if shard.identity != self._identity:
            self._say(f"{file} was made by something else than this cache and is passed over; remove it")
            return
        for key in shard.names:
            self._places.setdefault(key, []).append(shard)
