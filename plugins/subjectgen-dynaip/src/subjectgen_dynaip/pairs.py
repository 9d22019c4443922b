"""Training pairs from a folder (DynaIP B.1): a picture and its own subject, then two pictures of one subject.

The folder holds ``index.jsonl``, one JSON object per line; the paths in it are relative to the folder. Only the place
of each line is kept in memory, so that an index of a million pairs costs a few megabytes in every worker.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from subjectgen.core import (
    JSON,
    ChangesNothing,
    ChangesResults,
    Config,
    InputError,
    Reference,
    Sample,
    check_mask,
    fit_image,
    load_mask,
    load_reference,
    nearest,
    visible_files,
)

INDEX = "index.jsonl"
SHOWN = 3
"""Problems that a warning spells out."""


class PairsConfig(Config):
    """Options of both datasets."""

    folder: ChangesNothing[Path]
    """Folder with ``index.jsonl`` and the pictures that it names."""
    size: ChangesResults[PositiveInt | tuple[PositiveInt, PositiveInt]] = 1024
    """Pixels of the target: a square's side, or height and width. What is too long is cut off at both ends."""
    broken: ChangesResults[Literal["skip", "error"]] = "skip"
    """Lines that cannot be used or name a file that is not there: left out, with one warning; or an error."""


class Pairs(ABC):
    """Base of the datasets of pairs: reads the index, finds lines by number, says where something is wrong.

    Keys are ``line-000012``, the line of the index. Facts are ``line``; ``files``, the names in it; and ``subject``,
    the line's ``name``, if it has one.
    """

    required: ClassVar[Sequence[str]]
    optional: ClassVar[Sequence[str]]
    files: ClassVar[Sequence[str]]
    """Keys that name pictures."""

    def __init__(self, config: PairsConfig) -> None:
        """Read the index and see that its pictures are there; they are not decoded yet.

        Raises:
            InputError: No index, no line that can be used, or with ``broken: error`` the first that cannot.
        """
        self.config = config
        self.folder = config.folder.expanduser()
        self.index = self.folder / INDEX
        self._offsets, self._numbers = array("Q"), array("Q")
        self._read()

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Sample:
        """One pair; the same index gives the same pair.

        Raises:
            InputError: A picture that cannot be decoded or a mask that does not fit. Names file and line.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self.index.open("rb") as stream:
            stream.seek(self._offsets[index])
            text = stream.readline()
        number = self._numbers[index]
        place = f"{self.index}:{number}"
        fields = self._fields(text, place)
        with _at(place):
            return replace(self._sample(fields), key=f"line-{number:06d}", facts=self._facts(number, fields))

    @abstractmethod
    def _sample(self, fields: dict[str, str]) -> Sample:
        """The sample of one line, without key and facts."""

    def _facts(self, number: int, fields: dict[str, str]) -> dict[str, JSON]:
        named: dict[str, JSON] = {"subject": fields["name"]} if "name" in fields else {}
        return {**named, "line": number, "files": {key: fields[key] for key in self.files if key in fields}}

    def _picture(self, fields: dict[str, str], key: str) -> Float[Tensor, "3 h w"]:
        return load_reference(self.folder / fields[key]).image

    def _mask(self, fields: dict[str, str], key: str, picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
        mask = load_mask(self.folder / fields[key], label=key)
        if mask.shape[1:] != picture.shape[1:]:
            sizes = "{}x{}; expected the size of its picture, {}x{}".format(*mask.shape[1:], *picture.shape[1:])
            raise InputError(f"{key} {fields[key]!r} is {sizes} (height x width)")
        return mask

    # ------------------------------------------------------------------------------------------------ the index

    def _read(self) -> None:
        total, problems = 0, 0
        shown: list[str] = []
        for number, offset, text in self._lines():
            total += 1
            try:
                self._check(text, f"{self.index}:{number}")
            except InputError as error:
                if self.config.broken == "error":
                    raise
                problems += 1
                shown += [str(error)] if problems <= SHOWN else []
            else:
                self._offsets.append(offset)
                self._numbers.append(number)
        listed = "".join(f"\n  {problem}" for problem in shown)
        if not len(self):
            raise InputError(f"{self.index}: no line of {total} can be used{listed}")
        if problems:
            message = f"{self.index}: {problems} of {total} lines cannot be used and are left out, such as{listed}"
            warnings.warn(message, stacklevel=3)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Number, offset and text of every line that is not blank."""
        if not self.index.is_file():
            names = [file.name for file in visible_files(self.folder)]
            raise InputError(f"{self.index}: no such file{nearest(INDEX, names)}; expected one JSON object per line")
        offset = 0
        with self.index.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                if text.strip():
                    yield number, offset, text
                offset += len(text)

    def _check(self, text: bytes, place: str) -> None:
        fields = self._fields(text, place)
        for key in self.files:
            if key in fields and not (self.folder / fields[key]).is_file():
                raise InputError(f"{place}: {key}: no such file {fields[key]!r} in {self.folder}")

    def _fields(self, text: bytes, place: str) -> dict[str, str]:
        try:
            values = json.loads(text.decode("utf-8-sig"))
        except ValueError as error:  # not UTF-8 or not JSON
            raise InputError(f"{place}: not a line of JSON: {error}") from None
        return read_fields(values, self.required, self.optional, place)


class IntraPairs(Pairs):
    """Pictures whose own subject is the reference: the subject in its mask, and the picture as the target.

    A line is ``{"image": "a.jpg", "mask": "a.png", "caption": "...", "name": "..."}``; ``name`` may be missing.
    Mask and picture are cut alike, so that the reference shows no more of the subject than the target does.
    """

    class Config(PairsConfig):
        """Options of ``intra_pairs``."""

    required = ("image", "mask", "caption")
    optional = ("name",)
    files = ("image", "mask")

    def _sample(self, fields: dict[str, str]) -> Sample:
        picture = self._picture(fields, "image")
        mask = self._mask(fields, "mask", picture)
        picture, mask = (fit_image(part, self.config.size, "crop") for part in (picture, mask))
        check_mask(mask, f"mask {fields['mask']!r}, cut to the target's frame,")
        reference = Reference(image=picture, subject_mask=mask, name=fields.get("name"))
        return Sample(prompt=fields["caption"], references=(reference,), target=picture)


class CrossPairs(Pairs):
    """Two pictures of one subject: the reference, as it is, and the target.

    A line is ``{"reference": "a.jpg", "reference_mask": "a.png", "target": "b.jpg", "caption": "...", "name": "..."}``;
    ``reference_mask`` and ``name`` may be missing.
    """

    class Config(PairsConfig):
        """Options of ``cross_pairs``."""

    required = ("reference", "target", "caption")
    optional = ("reference_mask", "name")
    files = ("reference", "reference_mask", "target")

    def _sample(self, fields: dict[str, str]) -> Sample:
        picture = self._picture(fields, "reference")
        mask = self._mask(fields, "reference_mask", picture) if "reference_mask" in fields else None
        reference = Reference(image=picture, subject_mask=mask, name=fields.get("name"))
        target = fit_image(self._picture(fields, "target"), self.config.size, "crop")
        return Sample(prompt=fields["caption"], references=(reference,), target=target)


def read_fields(values: Any, required: Sequence[str], optional: Sequence[str], place: str) -> dict[str, str]:
    """Check an entry that a user wrote: known keys, all that are needed, each some text.

    Args:
        values: The entry as JSON or YAML gives it.
        required: Keys that it must have.
        optional: Keys that it may have.
        place: File and line, for messages.

    Raises:
        InputError: Names place, key, what was expected and the nearest valid key.
    """
    known = (*required, *optional)
    if not isinstance(values, dict):
        raise InputError(f"{place}: got {values!r:.60}; expected a mapping with keys {', '.join(known)}")
    for key in values:
        if key not in known:
            raise InputError(
                f"{place}: unknown key {key!r}{nearest(str(key), known)}; expected some of {', '.join(known)}"
            )
    for key in required:
        if key not in values:
            raise InputError(f"{place}: {key}: missing; expected keys {', '.join(required)}")
    for key, value in values.items():
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{place}: {key}: got {value!r:.60}; expected text that is not empty")
    return values


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Put file and line before what is wrong."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
