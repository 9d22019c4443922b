"""An index made of the names in a folder: what begins alike belongs together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from subjectgen.core import InputError, visible_files
from subjectgen.datasets.entries import as_key
from subjectgen.datasets.left_out import RefusedError
from subjectgen.datasets.records import Record, RecordFile, parsed_json

ENDINGS = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif")
"""Of pictures."""
NAME = re.compile(rf"(?P<stem>.+?)(?:\.(?P<role>ref|mask)(?P<number>\d*))?\.(?P<ending>{'|'.join(ENDINGS)}|txt)", re.I)


class NamedPictures(RecordFile):
    """``x.png``, ``x.txt``, ``x.ref.png`` or ``x.ref0.png``, ``x.mask.png`` or ``x.mask0.png``; numbers are samples."""

    def __init__(self, folder: Path) -> None:
        """Look at the names.

        Raises:
            InputError: No file of such a name.
        """
        self.path = folder
        groups: dict[str, list[re.Match[str]]] = {}
        for file in visible_files(folder):
            found = NAME.fullmatch(file.name)
            if found:
                groups.setdefault(found["stem"], []).append(found)
        if not groups:
            raise InputError(
                f"{folder}: no index (index.jsonl, index.json, index.csv) and no pictures with prompts; "
                "expected x.png, x.ref.png and x.txt, or an index"
            )
        self._stems = sorted(groups)
        self._lines = b""
        self._places: list[tuple[int, int]] = []
        for stem in self._stems:
            line = json.dumps([(one[0], one["role"], one["number"], one["ending"]) for one in groups[stem]]).encode()
            self._places.append((len(self._lines), len(line)))
            self._lines += line

    def scan(self) -> Iterator[Record]:
        """All groups of names; prompts are read."""
        for number, (offset, length) in enumerate(self._places):
            content = self._lines[offset : offset + length]
            try:
                values: Any = self._entry(number, content)
            except RefusedError as refused:
                values = refused
            yield Record(number, offset, length, values)

    def parse(self, content: bytes) -> Any:
        """One group again."""
        names = parsed_json(content)
        first = NAME.fullmatch(names[0][0])
        assert first is not None
        return self._values(first["stem"], names)

    def read(self, offset: int, length: int) -> bytes:
        """From memory."""
        return self._lines[offset : offset + length]

    def place(self, number: int) -> str:
        """The names' common part."""
        return str(self.path / self._stems[number])

    def _entry(self, number: int, content: bytes) -> dict[str, Any]:
        return self._values(self._stems[number], parsed_json(content))

    def _values(self, stem: str, names: list[list[Any]]) -> dict[str, Any]:
        roles: dict[str, list[tuple[int, str]]] = {"": [], "ref": [], "mask": [], "txt": []}
        for name, role, number, ending in names:
            kind = "txt" if ending.lower() == "txt" else (role or "").lower()
            roles[kind].append((int(number or 0), name))
        for kind, what in (("txt", "prompt"), ("", "target")):
            if len(roles[kind]) != 1:
                raise RefusedError(
                    f"{'no' if not roles[kind] else 'more than one'} {what}", ", ".join(n for _, n in roles[kind])
                )
        numbers = [number for number, _ in sorted(roles["ref"])]
        if numbers != list(range(len(numbers))):
            raise RefusedError(
                "references are not numbered from 0", ", ".join(name for _, name in sorted(roles["ref"]))
            )
        masks = dict(roles["mask"])
        if masks.keys() - set(numbers) or len(masks) < len(roles["mask"]):
            raise RefusedError("a mask without its reference", ", ".join(name for _, name in roles["mask"]))
        found = {
            "key": as_key(stem),
            "prompt": self._prompt(roles["txt"][0][1]),
            "target": roles[""][0][1],
            "references": [name for _, name in sorted(roles["ref"])],
        }
        return found | ({"masks": [masks.get(number) for number in numbers]} if masks else {})

    def _prompt(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RefusedError("prompt cannot be read", f"{name}: {error}") from None
