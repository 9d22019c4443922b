"""Reading what an index says of a sample: each function takes one field or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subjectgen.core import nearest
from subjectgen.datasets.left_out import RefusedError
from subjectgen.datasets.sources import FileSource, leaves_folder


def mapping(values: Any, what: str = "entry") -> Mapping[str, Any]:
    """A mapping.

    Raises:
        RefusedError: Something else.
    """
    if not isinstance(values, Mapping):
        raise RefusedError(f"{what} is no mapping", f"got {values!r:.60}")
    return values


def text(values: Mapping[str, Any], key: str, what: str | None = None) -> str:
    """Text that is not blank. ``what``: the field's name in messages.

    Raises:
        RefusedError: Missing, of another type, or blank.
    """
    name = what or key
    if key not in values:
        raise RefusedError(f"{name} is missing", f"it has {', '.join(values) or 'nothing'}{nearest(key, values)}")
    value = values[key]
    if not isinstance(value, str):
        raise RefusedError(f"{name} is no text", f"got {value!r:.60}")
    if not value.strip():
        raise RefusedError(f"{name} is empty")
    return value


def file_name(values: Mapping[str, Any], key: str) -> str:
    """The name of a file that stays in its folder.

    Raises:
        RefusedError: As for :func:`text`, or it leads out of the folder.
    """
    return stays_inside(text(values, key), key)


def stays_inside(name: Any, key: str) -> str:
    """The same name.

    Raises:
        RefusedError: No text, blank, absolute, or ``..`` leads out of the folder.
    """
    if not isinstance(name, str) or not name.strip():
        raise RefusedError(f"{key} is no file name", f"got {name!r:.60}")
    if leaves_folder(name):
        raise RefusedError(f"{key} leads out of the folder", f"got {name!r:.80}; expected a path inside of it")
    return name


def known_keys(values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises:
    RefusedError: A key that is not known.
    """
    for key in values:
        if key not in known:
            raise RefusedError("unknown key", f"{key!r}{nearest(str(key), known)}; expected some of {', '.join(known)}")


def picture_file(folder: Path, name: str) -> FileSource:
    """A picture by its name in a folder."""
    return FileSource(name, folder / name)
