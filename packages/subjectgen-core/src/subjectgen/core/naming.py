"""Names of files that say what they hold, and that nobody else has."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from subjectgen.core.disks import explained, resolved
from subjectgen.core.errors import InputError

_RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d")
"""Names that Windows keeps for devices, whatever their suffix."""
LONGEST = 255
"""Bytes of a file name that every common file system takes."""


def slug(text: str, limit: int = 60) -> str:
    """A text as part of a file name: small letters and digits of any script, with ``-`` between the words.

    Letters that this system's file names cannot hold are left out; a short hash of the text then takes their place, as
    it does for a text without letters. An empty text is ``empty``.

    Args:
        text: Any text.
        limit: Most bytes of the name.
    """
    if not text.strip():
        return "empty"
    words = _words(unicodedata.normalize("NFKC", text).lower())
    held = "-".join(filter(None, ("".join(filter(_fits, word)) for word in words)))
    if not held or len(held) < len("-".join(words)):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        held = f"{_cut(held, limit - 9)}-{digest}".strip("-")
    name = _cut(held, limit)
    return f"{name}-" if _RESERVED.fullmatch(name) else name


def unused_path(folder: str | os.PathLike[str], stem: str, suffix: str, *, beside: Sequence[str] = ()) -> Path:
    """Claim a file name that no file has, also while other processes claim theirs.

    It is ``stem`` with ``suffix``, or the first of ``stem-2``, ``stem-3``, … An empty file holds the place: write it
    with :func:`~subjectgen.core.files.atomic_write`, or remove it.

    Args:
        folder: Where; made if it is not there.
        stem: Such as ``0001-a-duck-7``.
        suffix: Such as ``.png``.
        beside: Suffixes of other files that will stand beside it, which must be free too.

    Raises:
        InputError: The folder cannot be written to.
    """
    if (
        not all(map(_fits, stem))
        or not stem.strip(".")
        or Path(stem).name != stem
        or len(os.fsencode(stem)) > LONGEST - 20
    ):
        raise InputError(f"{stem!a}: is no file name; expected at most {LONGEST - 20} bytes without separators")
    place = resolved(folder)
    with explained(place):
        place.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            name = place / (stem if number == 1 else f"{stem}-{number}")
            taken = any(os.path.lexists(f"{name}{other}") for other in beside)
            if not taken and _claimed(path := Path(f"{name}{suffix}")):
                return path
    raise AssertionError("numbers do not end")


def _claimed(path: Path) -> bool:
    """Whether the file could be made by this call."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    return True


def _words(text: str) -> list[str]:
    """Runs of letters, their marks and digits; all else, underscores too, stands between them."""
    return "".join(letter if unicodedata.category(letter)[0] in "LNM" else " " for letter in text).split()


def _fits(letter: str) -> bool:
    try:
        os.fsencode(letter)
    except UnicodeEncodeError:
        return False
    return True


def _cut(text: str, limit: int) -> str:
    """The beginning of a text in so many bytes of UTF-8, at a whole letter."""
    return text.encode()[: max(limit, 0)].decode(errors="ignore").strip("-")
