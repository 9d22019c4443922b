"""MUSAR-Gen: about 30,000 pictures of two subjects that the MUSAR model made, with both references.

What is established of it is the table of columns in MUSAR's README (github ``guozinan126/MUSAR``, hub
``guozinan/MUSAR-Gen``): pictures ``cond_img_0``, ``cond_img_1`` and ``tgt_img``, texts ``cond_prompt_0``,
``cond_prompt_1`` and ``prompt``. That a download holds Parquet files whose pictures are ``{"bytes", "path"}``, as the
``datasets`` library writes them, follows from how it is loaded, and was not seen. Needs pyarrow
(``pip install subjectgen-datasets[parquet]``).

Parquet gives rows in groups: in order they are read quickly, and a single row costs its whole group. For training pack
it once, ``subjectgen data shard '{name: musar_gen, folder: ...}' --out shards``, and train on ``tar_shards``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from subjectgen.core import ChangesNothing, ComponentError, InputError
from subjectgen.datasets.base import EntryDataset
from subjectgen.datasets.entries import Entry, ReferenceEntry
from subjectgen.datasets.reading import UnreadableSampleError
from subjectgen.datasets.sizing import SizedConfig
from subjectgen.datasets.sources import BytesSource

REFERENCES = ("cond_img_0", "cond_img_1")
TARGET = "tgt_img"
SUBJECTS = ("cond_prompt_0", "cond_prompt_1")
PROMPT = "prompt"


class MusarGen(EntryDataset):
    """Two references and a target from Parquet files.

    Keys are ``row-0000012``, counted from 0 over the files by name. Facts: ``row`` and ``subjects``, what the
    references show in words, where the columns are there. References carry these words as names.
    """

    class Config(SizedConfig):
        """Options of ``musar_gen``."""

        folder: ChangesNothing[Path]
        """Folder with ``*.parquet``, also in folders inside."""

    config: Config

    def __init__(self, config: Config) -> None:
        """Read the footers of all files.

        Raises:
            InputError: No such folder, no Parquet file in it, or one that lacks a column.
            ComponentError: pyarrow is not installed.
        """
        parquet = _parquet()
        folder = config.folder.expanduser()
        self._files = sorted(folder.rglob("*.parquet"))
        if not self._files:
            raise InputError(f"{folder}: no Parquet file; expected those of guozinan/MUSAR-Gen, data/*.parquet")
        self._groups: list[tuple[int, int]] = []
        rows: list[int] = []
        for number, file in enumerate(self._files):
            footer = _footer(parquet, file)
            self._groups += [(number, group) for group in range(footer.num_row_groups)]
            rows += [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self._ends = list(accumulate(rows))
        if not self._ends or not self._ends[-1]:
            raise InputError(f"{folder}: its Parquet files hold no rows")
        self._kept: tuple[int, list[dict[str, Any]]] | None = None
        super().__init__(config, self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Without the rows that are in memory."""
        return {**self.__dict__, "_kept": None}

    def keys(self) -> Sequence[str]:
        """From the numbers of the rows."""
        return [f"row-{index:07d}" for index in range(len(self))]

    def entry(self, index: int) -> Entry:
        """One row; the group that it stands in stays in memory until another is asked for."""
        self.check_index(index)
        group = bisect_right(self._ends, index)
        place = f"{self._files[self._groups[group][0]]}: row {index}"
        row = self._rows(group, place)[index - (self._ends[group - 1] if group else 0)]
        prompt = row.get(PROMPT)
        if not isinstance(prompt, str) or not prompt.strip():
            raise UnreadableSampleError.of(place, "prompt is no text", f"prompt: got {prompt!r:.60}; expected text")
        words = [str(row[key]) for key in SUBJECTS if row.get(key)]
        names = words if len(words) == len(REFERENCES) else [None] * len(REFERENCES)
        return Entry(
            key=f"row-{index:07d}",
            prompt=prompt,
            target=_picture(row, TARGET, place),
            references=tuple(
                ReferenceEntry(picture=_picture(row, key, place), name=name)
                for key, name in zip(REFERENCES, names, strict=True)
            ),
            facts={"row": index, "subjects": [*words]},
            place=place,
        )

    def _rows(self, group: int, place: str) -> list[dict[str, Any]]:
        if self._kept is None or self._kept[0] != group:
            number, inside = self._groups[group]
            columns = [*REFERENCES, TARGET, *SUBJECTS, PROMPT]
            try:
                with _parquet().ParquetFile(self._files[number]) as file:
                    there = [name for name in columns if name in file.schema_arrow.names]
                    self._kept = group, file.read_row_group(inside, columns=there).to_pylist()
            except (OSError, ValueError) as error:  # pyarrow's own errors are of both kinds
                raise UnreadableSampleError.of(place, "parquet: cannot be read", f"cannot be read: {error}") from error
        return self._kept[1]


def _picture(row: dict[str, Any], key: str, place: str) -> BytesSource:
    value = row.get(key)
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise UnreadableSampleError.of(place, f"{key} holds no picture", f"{key}: got {value!r:.60}; expected bytes")
    name = value.get("path") if isinstance(value, dict) else None
    return BytesSource(name or key, content)


def _footer(parquet: Any, file: Path) -> Any:
    try:
        footer = parquet.read_metadata(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: no Parquet file that can be read: {error}") from error
    names = footer.schema.to_arrow_schema().names
    missing = [name for name in (*REFERENCES, TARGET, PROMPT) if name not in names]
    if missing:
        raise InputError(f"{file}: lacks the columns {', '.join(missing)}; it has {', '.join(names)}")
    return footer


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ComponentError(
            f"musar_gen reads Parquet with pyarrow, which is missing ({error}): "
            "pip install 'subjectgen-datasets[parquet]'"
        ) from error
    return pyarrow.parquet
