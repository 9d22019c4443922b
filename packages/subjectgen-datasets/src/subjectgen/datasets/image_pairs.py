"""A folder of pictures with an index, or with names that say what belongs together.

An index is ``index.jsonl`` (an object per line), ``index.json`` (a list of objects) or ``index.csv`` (``.tsv``), with

==============================  =====================================================================================
``prompt``, ``target``          text, and the target's file
``reference`` or ``references``  one file or a list of them; in a table several stand in one cell, ``|`` between
``name`` or ``names``           what the subjects are called (optional)
``mask`` or ``masks``           where the subject is in each reference (optional; in lists ``null``, in cells nothing)
``key``                         the sample's key (optional)
``facts``                       a mapping of what else is known (optional; not in tables)
==============================  =====================================================================================

Without an index names decide: ``x.png`` is the target, ``x.txt`` its prompt, ``x.ref.png`` the reference (or
``x.ref0.png``, ``x.ref1.png`` ...), ``x.mask.png`` (``x.mask0.png`` ...) the subject in it. Any format
of pictures goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subjectgen.core import JSON, KEY, ChangesNothing, InputError
from subjectgen.datasets.base import EntryDataset
from subjectgen.datasets.entries import Entry, ReferenceEntry
from subjectgen.datasets.fields import file_name, known_keys, mapping, picture_file, stays_inside, text
from subjectgen.datasets.json_array import JsonArray
from subjectgen.datasets.left_out import LeftOut, RefusedError
from subjectgen.datasets.named_pictures import NamedPictures
from subjectgen.datasets.record_index import RecordIndex
from subjectgen.datasets.records import CsvRows, JsonLines, RecordFile
from subjectgen.datasets.sizing import SizedConfig

FORMATS: dict[str, type[RecordFile]] = {".jsonl": JsonLines, ".json": JsonArray, ".csv": CsvRows, ".tsv": CsvRows}
KNOWN = (
    *("prompt", "target", "reference", "references", "name", "names", "mask", "masks"),
    *("key", "facts"),
)
BETWEEN = "|"
"""Between several files in one cell of a table."""


class ImagePairs(EntryDataset):
    """Targets with references from a folder.

    Keys are those of the index; without one ``line-000012`` (JSON lines, tables), ``entry-0000012`` (a list) or the
    common part of the files' names. Facts: those of the index, ``files``, and ``subject``, the name of the first
    reference where it has one.
    """

    class Config(SizedConfig):
        """Options of ``image_pairs``."""

        folder: ChangesNothing[Path]
        """Where the pictures are; paths begin there, and none leads out of it."""
        index: ChangesNothing[Path | None] = None
        """The index, if it is not ``index.jsonl``, ``.json``, ``.csv`` or ``.tsv`` in the folder."""

    config: Config

    def __init__(self, config: Config) -> None:
        """Read the index, or the folder's names; no picture is opened.

        Raises:
            InputError: No such folder or file, or no sample that can be used.
        """
        self.folder = config.folder.expanduser()
        if not self.folder.is_dir():
            raise InputError(f"folder: no such folder: {self.folder}")
        left_out = LeftOut()
        self._keys: list[str] = []
        self._index = RecordIndex(_index_of(self.folder, config.index), self._wanted, left_out, "samples")
        super().__init__(config, len(self._index))
        self._keys = self._named_keys(self._keys)
        self.left_out = left_out

    def keys(self) -> list[str]:
        """Those of the index, or made from the lines."""
        return list(self._keys)

    def entry(self, index: int) -> Entry:
        """One line of the index."""
        self.check_index(index)
        values = self._index.values(index)
        files, names, masks = (_several(values, key) for key in ("reference", "name", "mask"))
        references = tuple(
            ReferenceEntry(
                picture=picture_file(self.folder, str(file)),
                subject_mask=picture_file(self.folder, mask) if mask else None,
                name=name or None,
            )
            for file, name, mask in zip(files, _filled(names, files), _filled(masks, files), strict=True)
        )
        told: dict[str, JSON] = {"files": {"references": [*files], "target": values["target"]}}
        if names and names[0]:
            told["subject"] = names[0]
        return Entry(
            key=self._keys[index],
            prompt=values["prompt"],
            target=picture_file(self.folder, values["target"]),
            references=references,
            facts={**told, **(values.get("facts") or {})},
            place=self._index.place(index),
        )

    def _wanted(self, values: Any) -> bool:
        entry = mapping(values)
        known_keys(entry, KNOWN)
        text(entry, "prompt")
        file_name(entry, "target")
        _check_references(entry)
        mapping(entry.get("facts", {}), "facts")
        key = entry.get("key", "")
        if key and not (isinstance(key, str) and KEY.fullmatch(key)):
            raise RefusedError("key is no name", f"got {key!r:.60}; expected letters, digits and . _ -")
        self._keys.append(key)
        return True

    def _named_keys(self, given: list[str]) -> list[str]:
        """A key for every sample.

        Raises:
            InputError: The same key twice, whatever the case of its letters.
        """
        pattern = "entry-{:07d}" if isinstance(self._index.file, JsonArray) else "line-{:06d}"
        keys = [key or pattern.format(self._index.number(index)) for index, key in enumerate(given)]
        first: dict[str, int] = {}
        for index, key in enumerate(keys):
            before = first.setdefault(key.lower(), index)
            if before != index:
                raise InputError(f"{self._index.place(index)}: key {key!r} is that of {self._index.place(before)} too")
        return keys


def _index_of(folder: Path, index: Path | None) -> RecordFile:
    """The index that is given or there, or one made of names."""
    if index is not None:
        index = index.expanduser()
        kind = FORMATS.get(index.suffix.lower())
        if kind is None:
            raise InputError(f"index: got {index}; expected a file that ends in {', '.join(FORMATS)}")
        return kind(index)
    there = [folder / f"index{suffix}" for suffix in FORMATS if (folder / f"index{suffix}").is_file()]
    if len(there) > 1:
        raise InputError(f"{folder}: holds {' and '.join(one.name for one in there)}; choose one by the option index")
    return FORMATS[there[0].suffix](there[0]) if there else NamedPictures(folder)


def _several(entry: Mapping[str, Any], key: str) -> list[Any]:
    """A field that stands for one or, in the plural, for several."""
    plural = f"{key}s"
    if key in entry and plural in entry:
        raise RefusedError(f"{key} and {plural} are both there")
    value = entry.get(plural, entry.get(key))
    if value is None:
        return []
    if isinstance(value, list):
        return value
    return [part.strip() for part in value.split(BETWEEN)] if plural in entry or BETWEEN in value else [value]


def _filled(values: list[Any], files: list[Any]) -> list[Any]:
    return values or [None] * len(files)


def _check_references(entry: Mapping[str, Any]) -> None:
    for key in ("reference", "name", "mask"):
        for field in (key, f"{key}s"):
            if field in entry and not isinstance(entry[field], (str, list)):
                raise RefusedError(f"{field} is neither text nor a list", f"got {entry[field]!r:.60}")
    files, names, masks = (_several(entry, key) for key in ("reference", "name", "mask"))
    if not files:
        raise RefusedError("reference is missing", f"it has {', '.join(entry)}")
    for what, values in (("name", names), ("mask", masks)):
        if values and len(values) != len(files):
            raise RefusedError(f"another number of {what}s than of references", f"{len(values)} and {len(files)}")
    for file in files:
        stays_inside(file, "reference")
    for mask in filter(None, masks):
        stays_inside(mask, "mask")
    if not all(name is None or isinstance(name, str) for name in names):
        raise RefusedError("name is no text", f"got {names!r:.60}")
