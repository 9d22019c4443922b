"""A JSON list of any length, read through a window: UNO-1M's labels have 810 MB, as objects ten times that.

Bytes are decoded as Latin-1, one letter per byte: what JSON itself is made of is ASCII, and no byte of a longer UTF-8
letter is, so places in the text are places in the file. Letters are decoded properly once an element is cut out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from subjectgen.core import InputError
from subjectgen.datasets.records import Record, RecordFile, attempted, parsed_json

CHUNK = 1 << 22
"""Bytes that are read at once."""
LARGEST = 1 << 24
"""Bytes that one element may have; more are taken for damage."""
BLANK = " \t\n\r"


class JsonArray(RecordFile):
    """A file with one JSON list."""

    def scan(self) -> Iterator[Record]:
        """All elements."""
        with self.path.open("rb") as stream:
            window = _Window(stream, str(self.path))
            window.take("[", "a JSON list")
            number = 0
            while window.letter() != "]" or number:
                value, offset, text = window.element()
                values = value if text.isascii() else attempted(self, text.encode("latin-1"))
                yield Record(number, offset, len(text), values)
                number += 1
                if window.letter() != ",":
                    break
                window.take(",", "a comma")
            window.take("]", "a comma or the end of the list")
            if window.letter():
                raise window.damage("expected nothing after the list")

    def parse(self, content: bytes) -> Any:
        """One element."""
        return parsed_json(content)

    def place(self, number: int) -> str:
        """File and place in the list."""
        return f"{self.path}: entry {number}"


class _Window:
    """The part of a file that is looked at."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name, self._decoder = stream, name, json.JSONDecoder()
        self._text, self._start, self._at, self._ended = "", 0, 0, False
        while len(self._text) < 3 and not self._ended:
            self._more()
        if self._text.startswith("\xef\xbb\xbf"):  # UTF-8's byte order mark
            self._at = 3

    def letter(self) -> str:
        """The next letter that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in BLANK:
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def take(self, letter: str, expected: str) -> None:
        """Pass over a letter that must stand here."""
        found = self.letter()
        if found != letter:
            raise self.damage(f"got {found or 'the end'!r}; expected {expected}")
        self._at += 1

    def element(self) -> tuple[Any, int, str]:
        """The value that begins here, the place of its first byte, and its text."""
        self.letter()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                after, far = self._text[end : end + 1], len(self._text) - self._at > LARGEST
                if (after and after in BLANK + ",]") or self._ended or far:  # else a number may go on
                    break
            except RecursionError:
                raise self.damage("an entry is nested too deeply") from None
            except json.JSONDecodeError as error:
                if self._ended or len(self._text) - self._at > LARGEST:
                    raise self.damage(error.msg) from None
            self._more()
        text, offset = self._text[self._at : end], self._start + self._at
        self._at = end
        return value, offset, text

    def damage(self, reason: str) -> InputError:
        """An error that names the place."""
        return InputError(f"{self._name}: not a JSON list that can be read: at byte {self._start + self._at}: {reason}")

    def _more(self) -> None:
        chunk = self._stream.read(CHUNK)
        self._ended = not chunk
        self._text, self._start, self._at = self._text[self._at :] + chunk.decode("latin-1"), self._start + self._at, 0
