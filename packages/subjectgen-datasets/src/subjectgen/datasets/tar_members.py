"""What a tar shard holds and where: from its headers, or from ``x.tar.index.json`` beside it.

The index is JSON that any tool can write: ``{"format": 1, "size": BYTES OF THE TAR, "members": [[NAME, OFFSET, BYTES],
...]}``, for regular files alone. One that was written for a tar of another size is refused, not believed.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from subjectgen.core import InputError
from subjectgen.datasets.left_out import RefusedError
from subjectgen.datasets.sources import HEADER, leaves_folder
from subjectgen.datasets.storage import Slice, exists, file_size, read_range

FORMAT = 1
BLOCK = 512
CUT = "member is cut off"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar and what it holds."""

    place: str
    """Path or URL."""
    size: int
    members: Sequence[Member]
    refused: Sequence[tuple[str, RefusedError]]
    """Members that cannot be used, by name."""


def index_place(place: str) -> str:
    """Where the index of a tar stands."""
    return f"{place}.index.json"


def read_shard(place: str) -> Shard:
    """Members by the index, or by the headers where there is none.

    Raises:
        InputError: No tar, a compressed one, or an index that is damaged or was written for another tar.
    """
    try:
        size = file_size(place)
        if exists(index_place(place)):
            return _by_index(place, size)
        return scan_tar(place, size)
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {error}") from error


def scan_tar(place: str, size: int) -> Shard:
    """Members by the headers: one short read for each."""
    start = read_range(place, 0, min(2, size))
    if start in COMPRESSED:
        raise InputError(
            f"{place}: is compressed ({COMPRESSED[start]}), so nothing in it can be found; unpack it first"
        )
    members: list[Member] = []
    refused: list[tuple[str, RefusedError]] = []
    stream = io.BufferedReader(Slice(place, 0, size), HEADER)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            _walk(tar, size, members, refused)
            end = tar.offset
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise InputError(f"{place}: no tar that can be read: {error}") from error
    rest = read_range(place, end, min(BLOCK, max(0, size - end)))
    if rest.strip(b"\0"):  # tarfile takes damage in the middle for the end
        damage = RefusedError("damaged: no header where one should be", "what follows is not read")
        refused.append((f"byte {end}", damage))
    return Shard(place, size, members, refused)


def write_index(shard: Shard) -> str:
    """The text of a shard's index."""
    members = [list(member) for member in shard.members]
    return json.dumps({"format": FORMAT, "size": shard.size, "members": members}, separators=(",", ":"))


def _walk(tar: tarfile.TarFile, size: int, members: list[Member], refused: list[tuple[str, RefusedError]]) -> None:
    """Sort members into those that can be used and those that cannot."""
    try:
        for info in tar:
            if not info.isdir():
                _sort(info, size, members, refused)
    except tarfile.ReadError as error:
        if not any(reason.reason == CUT for _, reason in refused):  # else that is what is wrong here, too
            refused.append((f"byte {tar.offset}", RefusedError(CUT, str(error))))


def _sort(info: tarfile.TarInfo, size: int, members: list[Member], refused: list[tuple[str, RefusedError]]) -> None:
    member = Member(info.name, info.offset_data, info.size)
    try:
        if not info.isreg() or info.sparse is not None:
            raise RefusedError("member is no regular file", "links and devices are not followed")
        _check(member, size)
    except RefusedError as problem:
        refused.append((info.name, problem))
    else:
        members.append(member)


def _check(member: Member, size: int) -> None:
    if leaves_folder(member.name):
        raise RefusedError("member's name leads out of the archive")
    if member.offset + member.length > size:
        raise RefusedError(CUT, f"it ends at byte {member.offset + member.length} of {size}")


def _by_index(place: str, size: int) -> Shard:
    index = index_place(place)
    content = _content(index)
    if content.get("size") != size:
        raise InputError(
            f"{index}: was written for a tar of {content.get('size')!r:.30} bytes, and {place} has {size}; "
            "remove it, and the tar's own headers are read"
        )
    members: list[Member] = []
    refused: list[tuple[str, RefusedError]] = []
    for row in content["members"]:
        member = _row(row, index)
        try:
            _check(member, size)
            members.append(member)
        except RefusedError as problem:
            refused.append((member.name, problem))
    return Shard(place, size, members, refused)


def _content(index: str) -> dict[str, Any]:
    try:
        content = json.loads(read_range(index, 0, file_size(index)).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{index}: is damaged: {error}; remove it, and the tar's own headers are read") from None
    good = isinstance(content, dict) and isinstance(content.get("members"), list)
    if not good or content.get("format") != FORMAT:
        raise InputError(f'{index}: expected {{"format": {FORMAT}, "size": ..., "members": [...]}}')
    return content


def _row(row: Any, index: str) -> Member:
    good = isinstance(row, list) and len(row) == 3 and isinstance(row[0], str)
    if not good or not all(type(number) is int and number >= 0 for number in row[1:]):
        raise InputError(f"{index}: got the member {row!r:.80}; expected [name, offset, bytes]")
    return Member(*row)
