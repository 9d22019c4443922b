"""Bytes of files, local or behind an fsspec URL, by position: nothing stays open and no position is shared.

Every read opens the file for itself, so that processes that were forked, threads and copies from a pickle cannot move
each other's place in it.
"""

from __future__ import annotations

import glob
import io
import os
from typing import Any

import fsspec

from subjectgen.core import InputError, is_hidden, nearest

WILD = "*?["


def is_url(place: str) -> bool:
    """Whether a place is an fsspec URL (``s3://...``, ``memory://...``, chained with ``::``) and not a local path."""
    return "://" in place or "::" in place


def file_size(place: str) -> int:
    """Bytes of a file.

    Raises:
        OSError: No such file, or it cannot be asked.
    """
    if not is_url(place):
        return os.stat(place).st_size
    system, path = _system(place)
    size = system.size(path)
    if size is None:
        raise OSError(f"{place}: its size is not known")
    return int(size)


def read_range(place: str, offset: int, length: int) -> bytes:
    """Exactly these bytes of a file.

    Raises:
        OSError: No such file, or it ends before.
    """
    if is_url(place):
        system, path = _system(place)
        content = bytes(system.cat_file(path, start=offset, end=offset + length)) if length else b""
    else:
        with open(place, "rb") as stream:
            stream.seek(offset)
            content = stream.read(length)
    if len(content) != length:
        raise OSError(f"{place}: ends at byte {offset + len(content)}, inside of what is read there")
    return content


def exists(place: str) -> bool:
    """Whether there is such a file."""
    if not is_url(place):
        return os.path.isfile(place)
    system, path = _system(place)
    return bool(system.isfile(path))


def matching(pattern: str) -> list[str]:
    """Files of a path, a glob or a URL of either, by name; the name itself where it holds no wild card.

    Raises:
        InputError: No such file, none that matches, or a URL of a kind that fsspec cannot open.
    """
    try:
        found = _found(pattern)
    except (ImportError, ValueError, OSError) as error:  # a protocol that is unknown, or whose library is missing
        raise InputError(f"{pattern}: cannot be listed: {error}") from error
    if not found:
        folder = os.path.dirname(pattern) or "."
        names = os.listdir(folder) if not is_url(pattern) and os.path.isdir(folder) else []
        hint = "" if any(letter in pattern for letter in WILD) else nearest(os.path.basename(pattern), names)
        raise InputError(f"{pattern}: no such file{hint}; expected a file, a glob such as data/*.tar, or an fsspec URL")
    return found


def _found(pattern: str) -> list[str]:
    wild = any(letter in pattern for letter in WILD)
    if not is_url(pattern):
        pattern = os.path.expanduser(pattern)
        found = sorted(glob.glob(pattern, recursive=True)) if wild else [pattern]
        return [path for path in found if os.path.isfile(path) and not is_hidden(os.path.basename(path))]
    system, path = _system(pattern)
    if not wild:
        return [pattern] if system.isfile(path) else []
    return [str(system.unstrip_protocol(one)) for one in sorted(system.glob(path)) if system.isfile(one)]


def _system(place: str) -> tuple[Any, str]:
    """The library keeps one file system of each kind per process and makes a new one after a fork."""
    system, path = fsspec.core.url_to_fs(place)
    return system, str(path)


class Slice(io.RawIOBase):
    """A part of a file as a stream of its own, which reads by position; wrap it in ``io.BufferedReader``."""

    def __init__(self, place: str, offset: int, length: int) -> None:
        super().__init__()
        self._place, self._offset, self._length, self._at = place, offset, length, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the part."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """The place within the part."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or as much of it as there is."""
        count = max(0, min(len(buffer), self._length - self._at))
        buffer[:count] = read_range(self._place, self._offset + self._at, count)
        self._at += count
        return count
