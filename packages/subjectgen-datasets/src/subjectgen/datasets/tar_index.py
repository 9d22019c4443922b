"""Samples of many tars: which members belong together, as rows of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from subjectgen.datasets.entries import as_key
from subjectgen.datasets.left_out import LeftOut, RefusedError
from subjectgen.datasets.named_pictures import ENDINGS
from subjectgen.datasets.sources import SliceSource
from subjectgen.datasets.tar_members import Member, Shard, read_shard

ROLES = ("json", "txt", "target", "reference", "mask", "region")
ENDING = re.compile(
    rf"(?P<text>json|txt)|(?:(?P<role>target|(?:reference|mask|region)(?P<number>\d{{0,4}}))\.)?"
    rf"(?P<ending>{'|'.join(ENDINGS)})"
)
ROW = np.dtype([("role", "u1"), ("number", "u2"), ("ending", "u1"), ("offset", "u8"), ("length", "u8")])
ALL_ENDINGS = ("json", "txt", *ENDINGS)
DOT = "~"
"""What a dot within a key is written as, so that the first dot of a name ends the key for every tool."""

Row = tuple[int, int, int, int, int]


class TarIndex:
    """Where every member of every sample lies."""

    def __init__(self, places: Sequence[str], left_out: LeftOut) -> None:
        """Read the members of all shards.

        Args:
            places: Paths or URLs.
            left_out: Counts samples and members that cannot be used.

        Raises:
            InputError: No tar, or an index that does not belong to it.
        """
        self.places = list(places)
        self._seen: set[str] = set()
        stems: list[bytes] = []
        shards: list[int] = []
        counts: list[int] = []
        tables: list[np.ndarray] = []
        for number, place in enumerate(self.places):
            rows: list[Row] = []
            for stem, members in self._samples(read_shard(place), left_out):
                stems.append(stem.encode("utf-8", "surrogateescape"))
                shards.append(number)
                counts.append(len(members))
                rows += members
            tables.append(np.array(rows, dtype=ROW))
        self._rows = np.concatenate(tables) if tables else np.empty(0, dtype=ROW)
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._shards = np.array(shards, dtype=np.uint32)
        self._stems = b"".join(stems)
        self._stem_ends = np.concatenate([[0], np.cumsum([len(stem) for stem in stems])]).astype(np.int64)
        self._seen = set()

    def __len__(self) -> int:
        return len(self._shards)

    def key(self, index: int) -> str:
        """The sample's key."""
        return as_key(self._stem(index).replace(DOT, "."))

    def place(self, index: int) -> str:
        """Shard and name, for messages."""
        return f"{self.places[self._shards[index]]}: {self._stem(index)}"

    def roles(self, index: int) -> dict[tuple[str, int], SliceSource]:
        """The sample's members by what they are and their number."""
        shard, stem = self.places[self._shards[index]], self._stem(index)
        found = {}
        for row in self._rows[self._first[index] : self._first[index + 1]]:
            role, number = ROLES[row["role"]], int(row["number"])
            numbered = f"{number}" if role in ("reference", "mask", "region") else ""
            inner = "" if role in ("json", "txt") else f"{role}{numbered}."
            name = f"{stem}.{inner}{ALL_ENDINGS[row['ending']]}"
            found[role, number] = SliceSource(name, shard, int(row["offset"]), int(row["length"]))
        return found

    def _stem(self, index: int) -> str:
        return self._stems[self._stem_ends[index] : self._stem_ends[index + 1]].decode("utf-8", "surrogateescape")

    def _samples(self, shard: Shard, left_out: LeftOut) -> list[tuple[str, list[Row]]]:
        """Samples of one shard in the order of their first members."""
        spoilt: dict[str, RefusedError] = {}
        for name, refused in shard.refused:
            left_out.add(f"{shard.place}: {name}", refused)
            spoilt[split_name(name)[0]] = refused
        groups: dict[str, list[Row]] = {}
        for member in shard.members:
            stem, ending = split_name(member.name)
            row = _row(member, ending)
            if row is not None:
                groups.setdefault(stem, []).append(row)
        found = []
        for stem, rows in groups.items():
            try:
                if stem not in spoilt:  # its member was counted
                    self._check(stem, rows)
                    found.append((stem, rows))
            except RefusedError as refused:
                left_out.add(f"{shard.place}: {stem}", refused)
        return found

    def _check(self, stem: str, rows: Sequence[Row]) -> None:
        what = [(ROLES[row[0]], row[1]) for row in rows]
        if len(set(what)) < len(what):
            twice = next(one for one in what if what.count(one) > 1)
            raise RefusedError("the same member twice", f"{twice[0]} {twice[1]}")
        if not {("json", 0), ("txt", 0)} & set(what):
            raise RefusedError("no prompt", "expected key.json or key.txt")
        numbers = sorted(number for role, number in what if role == "reference")
        if numbers != list(range(len(numbers))):
            raise RefusedError("references are not numbered from 0", f"got {numbers}")
        loose = [f"{role}{number}" for role, number in what if role in ("mask", "region") and number not in numbers]
        if loose:
            raise RefusedError("a mask without its reference", ", ".join(loose))
        key = as_key(stem.replace(DOT, ".")).lower()
        if key in self._seen:
            raise RefusedError("key is that of another sample", key)
        self._seen.add(key)


def split_name(name: str) -> tuple[str, str]:
    """Key and ending of a member: folders belong to the key, and the first dot of the file's own name ends it."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _row(member: Member, ending: str) -> Row | None:
    """A member as numbers; ``None`` if its ending is none of ours."""
    found = ENDING.fullmatch(ending)
    if found is None or not split_name(member.name)[0]:
        return None
    role = found["text"] or (found["role"] or "target").rstrip("0123456789")
    file = ALL_ENDINGS.index(found["text"] or found["ending"])
    return ROLES.index(role), int(found["number"] or 0), file, member.offset, member.length
