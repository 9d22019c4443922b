"""Files of folders that people fill by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subjectgen.core import InputError, nearest

LEFT_BY_SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx")


def visible_files(folder: Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """Files of a folder by name, without hidden ones and those that systems leave; with these endings, if any.

    Raises:
        InputError: No such folder, or a file.
    """
    if not folder.is_dir():
        siblings = [one.name for one in folder.parent.iterdir() if one.is_dir()] if folder.parent.is_dir() else []
        what = "is a file; expected a folder" if folder.exists() else f"no such folder{nearest(folder.name, siblings)}"
        raise InputError(f"{folder}: {what}")
    found = (one for one in folder.iterdir() if not is_hidden(one.name) and one.is_file())
    return sorted(one for one in found if not suffixes or one.name.lower().endswith(tuple(suffixes)))


def is_hidden(name: str) -> bool:
    """Whether a name is hidden, or one that systems and programs leave in folders."""
    return name.startswith((".", "~$")) or name.lower() in LEFT_BY_SYSTEMS
