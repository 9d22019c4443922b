"""UNO's training JSON: a list of ``{"prompt": ..., "image_tgt_path": ..., "image_paths": [...]}``.

That is what ``FluxPairedDatasetV2`` of UNO and its descendants reads: paths begin at the JSON's folder, and a single
reference may stand as ``image_path`` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subjectgen.core import ChangesNothing, InputError
from subjectgen.datasets.base import EntryDataset
from subjectgen.datasets.entries import Entry, ReferenceEntry
from subjectgen.datasets.fields import file_name, mapping, picture_file, stays_inside, text
from subjectgen.datasets.json_array import JsonArray
from subjectgen.datasets.left_out import LeftOut, RefusedError
from subjectgen.datasets.record_index import RecordIndex
from subjectgen.datasets.sizing import SizedConfig

TARGET = "image_tgt_path"


class UnoJson(EntryDataset):
    """Targets with one or several references.

    Keys are ``entry-0000012``, the place in the list, counted from 0. Facts: ``entry``, ``files`` (``references``,
    ``target``). Other keys of the JSON are left alone, as UNO leaves them.
    """

    class Config(SizedConfig):
        """Options of ``uno_json``."""

        file: ChangesNothing[Path]
        """The JSON."""
        images: ChangesNothing[Path | None] = None
        """Folder at which its paths begin; by default the JSON's own. No path may lead out of it."""

    config: Config

    def __init__(self, config: Config) -> None:
        """Read the JSON once.

        Raises:
            InputError: No such file or folder, or no entry that can be used.
        """
        file, left_out = config.file.expanduser(), LeftOut()
        self._index = RecordIndex(JsonArray(file), _wanted, left_out)
        self.images = (config.images or file.parent).expanduser()
        if not self.images.is_dir():
            raise InputError(f"images: no such folder: {self.images}")
        super().__init__(config, len(self._index))
        self.left_out = left_out

    def keys(self) -> list[str]:
        """From the places in the list."""
        return [self._key(index) for index in range(len(self))]

    def entry(self, index: int) -> Entry:
        """One entry of the list."""
        self.check_index(index)
        values = self._index.values(index)
        references = _references(values)
        return Entry(
            key=self._key(index),
            prompt=values["prompt"],
            target=picture_file(self.images, values[TARGET]),
            references=tuple(ReferenceEntry(picture=picture_file(self.images, name)) for name in references),
            facts={
                "entry": self._index.number(index),
                "files": {"references": [*references], "target": values[TARGET]},
            },
            place=self._index.place(index),
        )

    def _key(self, index: int) -> str:
        return f"entry-{self._index.number(index):07d}"


def _wanted(values: Any) -> bool:
    entry = mapping(values)
    text(entry, "prompt")
    file_name(entry, TARGET)
    _references(entry)
    return True


def _references(entry: Mapping[str, Any]) -> list[str]:
    if "image_path" in entry:
        return [file_name(entry, "image_path")]
    names = entry.get("image_paths")
    if not isinstance(names, list) or not names:
        raise RefusedError("image_paths is no list of files", f"got {names!r:.60}")
    return [stays_inside(name, "image_paths") for name in names]
