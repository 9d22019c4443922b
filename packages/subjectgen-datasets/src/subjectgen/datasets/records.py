"""Index files read once from front to end, in bounded memory, and again record by record from their place."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subjectgen.core import InputError, nearest
from subjectgen.datasets.left_out import RefusedError
from subjectgen.datasets.storage import read_range


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of an index file."""

    number: int
    """Line, counted from 1, or place in a JSON list, counted from 0."""
    offset: int
    length: int
    values: Any
    """What it says, or :class:`RefusedError`."""


class RecordFile(ABC):
    """An index file."""

    def __init__(self, path: Path) -> None:
        """Raises:
        InputError: No such file.
        """
        self.path = path
        if not path.is_file():
            names = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
            what = "is a folder; expected a file" if path.is_dir() else f"no such file{nearest(path.name, names)}"
            raise InputError(f"{path}: {what}")

    @abstractmethod
    def scan(self) -> Iterator[Record]:
        """All records, front to end.

        Raises:
            InputError: The file as a whole cannot be read. Names the place.
        """

    @abstractmethod
    def parse(self, content: bytes) -> Any:
        """One record again.

        Raises:
            RefusedError: It cannot be read.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of one record."""
        return read_range(str(self.path), offset, length)

    def place(self, number: int) -> str:
        """A record's place in messages."""
        return f"{self.path}:{number}"


class JsonLines(RecordFile):
    """One JSON object per line; blank lines are passed over."""

    def scan(self) -> Iterator[Record]:
        """All lines."""
        offset = 0
        with self.path.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                if text.strip():
                    yield Record(number, offset, len(text), attempted(self, text))
                offset += len(text)

    def parse(self, content: bytes) -> Any:
        """One line."""
        return parsed_json(content)


class CsvRows(RecordFile):
    """A table with a header, commas between (tabs in ``.tsv``); a value in quotes may hold line breaks."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            InputError: No such file, or no header.
        """
        super().__init__(path)
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        first = next(self._rows(), None)
        self.header: list[str] = [] if first is None or isinstance(first.values, RefusedError) else first.values
        if not any(self.header) or len(set(self.header)) < len(self.header):
            raise InputError(f"{path}:1: got the header {self.header}; expected names of columns, each once")

    def scan(self) -> Iterator[Record]:
        """All rows below the header."""
        rows = self._rows()
        next(rows, None)
        for row in rows:
            try:
                values = row.values if isinstance(row.values, RefusedError) else self._named(row.values)
            except RefusedError as refused:
                values = refused
            yield Record(row.number, row.offset, row.length, values)

    def parse(self, content: bytes) -> Any:
        """One row."""
        return self._named(next(csv.reader([_utf8(content)], delimiter=self._delimiter)))

    def _named(self, row: list[str]) -> dict[str, str]:
        if len(row) != len(self.header):
            raise RefusedError("another number of columns", f"{len(row)}; expected {len(self.header)}")
        return {name: value for name, value in zip(self.header, row, strict=True) if value.strip()}

    def _rows(self) -> Iterator[Record]:
        """Rows that are not blank. The reader asks for no line before it needs it, so what it took is its row."""
        taken: list[bytes] = []
        with self.path.open("rb") as stream:

            def lines() -> Iterator[str]:
                for line in stream:
                    taken.append(line)
                    yield line.decode("utf-8-sig" if not seen else "utf-8")

            reader, seen, offset, number = csv.reader(lines(), delimiter=self._delimiter), False, 0, 1
            while True:
                taken.clear()
                values: Any
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except UnicodeDecodeError as error:
                    values = RefusedError("not UTF-8", str(error))
                    reader = csv.reader(lines(), delimiter=self._delimiter)
                except csv.Error as error:
                    values = RefusedError("not a row of a table", str(error))
                seen = True
                length = sum(map(len, taken))
                if values:
                    yield Record(number, offset, length, values)
                offset, number = offset + length, number + len(taken)


def attempted(file: RecordFile, content: bytes) -> Any:
    """What a record says, or why it says nothing."""
    try:
        return file.parse(content)
    except RefusedError as refused:
        return refused


def parsed_json(content: bytes) -> Any:
    """A value of JSON.

    Raises:
        RefusedError: It is none, or not UTF-8.
    """
    try:
        return json.loads(_utf8(content))
    except (ValueError, RecursionError) as error:
        raise RefusedError("not JSON", str(error)) from None


def _utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedError("not UTF-8", str(error)) from None
