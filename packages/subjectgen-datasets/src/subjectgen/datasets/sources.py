"""Where the bytes of one picture lie: a file, a part of a file, or memory."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from subjectgen.datasets.storage import Slice, read_range

HEADER = 1 << 16
"""Bytes that are read at once where only a picture's header is wanted."""


@runtime_checkable
class Source(Protocol):
    """A picture that is not opened yet."""

    @property
    def name(self) -> str:
        """What its data set calls it, for messages; its ending says the format."""
        ...

    def read(self) -> bytes:
        """All of it.

        Raises:
            OSError: It is not there or cannot be read.
        """
        ...

    def open(self) -> io.BufferedIOBase:
        """A stream that can seek, for who needs only a part.

        Raises:
            OSError: It is not there or cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of its own."""

    name: str
    path: Path

    def read(self) -> bytes:
        """All of it."""
        return self.path.read_bytes()

    def open(self) -> io.BufferedIOBase:
        """The file."""
        return self.path.open("rb")


@dataclass(frozen=True, slots=True)
class SliceSource:
    """A part of a file, such as a member of a tar."""

    name: str
    place: str
    """Path or URL of the file."""
    offset: int
    length: int

    def read(self) -> bytes:
        """All of it."""
        return read_range(self.place, self.offset, self.length)

    def open(self) -> io.BufferedIOBase:
        """A stream over this part alone."""
        part = Slice(self.place, self.offset, self.length)
        return io.BufferedReader(part, HEADER)


@dataclass(frozen=True, slots=True)
class BytesSource:
    """Bytes that are in memory already."""

    name: str
    content: bytes

    def read(self) -> bytes:
        """All of it."""
        return self.content

    def open(self) -> io.BufferedIOBase:
        """A stream over them."""
        return io.BytesIO(self.content)


def leaves_folder(name: str) -> bool:
    """Whether a name in an index or archive leads out of its folder: absolute, with a drive, or by ``..``.

    ``a/../b`` stays inside. A link inside of the folder is the user's own, and is followed.
    """
    name = name.replace("\\", "/")
    if PurePosixPath(name).is_absolute() or name[1:2] == ":":
        return True
    return os.path.normpath(name).replace("\\", "/").split("/")[0] == ".."
