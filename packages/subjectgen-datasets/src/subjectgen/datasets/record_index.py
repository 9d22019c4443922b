"""Which records of an index file are samples: three numbers each, so that every worker's copy is small."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from subjectgen.datasets.left_out import LeftOut, RefusedError
from subjectgen.datasets.reading import UnreadableSampleError
from subjectgen.datasets.records import RecordFile

Check = Callable[[Any], bool]
"""Whether a record is wanted; raises :class:`RefusedError` for one that cannot be used."""


class RecordIndex:
    """Places of the records that are used, found in one pass over the file."""

    def __init__(self, file: RecordFile, check: Check, left_out: LeftOut, what: str = "entries") -> None:
        """Read the file once.

        Args:
            file: The index file.
            check: What a record must be.
            left_out: Counts what cannot be used.
            what: What the records are, for messages.

        Raises:
            InputError: The file cannot be read, or none of its records can be used.
        """
        self.file = file
        self._numbers, self._offsets, self._lengths = array("Q"), array("Q"), array("L")
        for record in file.scan():
            try:
                if isinstance(record.values, RefusedError):
                    raise record.values
                wanted = check(record.values)
            except RefusedError as refused:
                left_out.add(file.place(record.number), refused)
            else:
                left_out.unwanted += not wanted
                if wanted:
                    self._numbers.append(record.number)
                    self._offsets.append(record.offset)
                    self._lengths.append(record.length)
        left_out.tell(str(file.path), len(self), what)

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, index: int) -> int:
        """The record's number in the file."""
        return self._numbers[index]

    def place(self, index: int) -> str:
        """Its place in messages."""
        return self.file.place(self._numbers[index])

    def values(self, index: int) -> Any:
        """What the record says, read from the file again.

        Raises:
            UnreadableSampleError: The file is not what it was.
        """
        try:
            return self.file.parse(self.file.read(self._offsets[index], self._lengths[index]))
        except (OSError, RefusedError) as error:
            raise UnreadableSampleError.of(
                self.place(index), "index: changed while it is used", f"was read before, and now cannot be: {error}"
            ) from error
