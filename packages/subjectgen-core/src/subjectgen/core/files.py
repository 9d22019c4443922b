"""Writing files and folders so that a failure, also a crash, leaves all of the old or all of the new.

Folders cannot be replaced in one step, so :func:`atomic_folder` puts the old one aside, under a hidden name, for the
moment in which the new one takes its place. A crash in that moment leaves no folder; :func:`recover_folder`, which
every writer calls and every reader should, puts the old one back.
"""

from __future__ import annotations

import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from subjectgen.core.disks import explained, resolved
from subjectgen.core.errors import InputError, nearest

SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx")
"""What other systems leave in folders; hidden here, though their names do not begin with a dot."""
ABANDONED = 24 * 3600.0
"""Seconds after which what a crashed writer left may be removed."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path in the same folder and with the same suffix to write to; it becomes ``path`` at the end.

    If the block raises, ``path`` is as it was before, and folders made for it are gone. The file is on the disk when
    the block ends, with the permissions that the user's umask gives. A link is followed.

    Raises:
        InputError: No space, no permission or no such disk: names the path and the reason.
    """
    target = resolved(path)
    with explained(target), _parents(target):
        temporary = _beside(target, target.suffix)
        mode = _file_mode(temporary)
        try:
            yield temporary
            _settle(temporary, mode)
            os.replace(temporary, target)
            _synchronize(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``path`` at the end and replaces a folder of that name.

    If the block raises, ``path`` is as it was before; after a crash it is so once :func:`recover_folder` was called.
    All files are on the disk when the block ends, with the permissions that the user's umask gives. A link is followed.

    Raises:
        InputError: No space, no permission or no such disk: names the path and the reason.
    """
    target = resolved(path)
    with explained(target), _parents(target):
        recover_folder(target)
        _sweep(target)
        if target.exists() and not target.is_dir():
            raise InputError(f"{target}: is a file; expected a folder")
        temporary = _beside(target, ".part")
        temporary.mkdir()
        try:
            yield temporary
            _settle_folder(temporary)
            _exchange(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: str | os.PathLike[str]) -> None:
    """Put a folder back that a crash of :func:`atomic_folder` left under its hidden name; else nothing."""
    target = resolved(path)
    with suppress(OSError):  # another process may do the same, at the same time; or this one may only read
        for old in sorted(_left(target, ".old"), key=lambda one: one.stat().st_ctime_ns, reverse=True):
            if target.exists():
                _discard(old)
            else:
                os.rename(old, target)


def visible_files(folder: str | os.PathLike[str], suffixes: Sequence[str] = ()) -> list[Path]:
    """Files of a folder by name, without hidden ones and those that other systems leave (``._x.jpg``, ``Thumbs.db``).

    Args:
        folder: Where to look, not in folders inside.
        suffixes: Endings that are wanted, in small letters, such as ``.jpg``; all by default.

    Raises:
        InputError: No such folder, or a file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        siblings = [one.name for one in folder.parent.iterdir() if one.is_dir()] if folder.parent.is_dir() else []
        what = "is a file; expected a folder" if folder.exists() else f"no such folder{nearest(folder.name, siblings)}"
        raise InputError(f"{folder}: {what}")
    found = (one for one in folder.iterdir() if not is_hidden(one.name) and one.is_file())
    return sorted(one for one in found if not suffixes or one.name.lower().endswith(tuple(suffixes)))


def is_hidden(name: str) -> bool:
    """Whether a name is hidden, or one that other systems leave in folders."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM_FILES


# ------------------------------------------------------------------------------------------------------ replacing


def _exchange(new: Path, target: Path) -> None:
    """Put ``new`` in the place of ``target``; the old one is whole until the new one stands."""
    old = _beside(target, ".old")
    try:
        while new.exists():
            with suppress(FileNotFoundError):
                os.rename(target, old)
                _synchronize(target.parent)
            try:
                os.rename(new, target)
            except OSError:
                if not target.exists():
                    raise  # if it does, another writer was faster, or a reader has put the old one back
                _discard(old)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise
    _synchronize(target.parent)
    _discard(old)


def _discard(folder: Path) -> None:
    """Remove a folder that is whole, so that no part of it can be taken for the whole."""
    trash = folder.with_suffix(".part")
    with suppress(FileNotFoundError):
        os.rename(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what a crashed writer left half-written long ago."""
    for part in _left(target, ".part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED:
                shutil.rmtree(part, ignore_errors=True)


def _beside(target: Path, suffix: str) -> Path:
    """A hidden name that no one else uses; writers go by its suffix."""
    return target.with_name(f"{_hidden(target)}{uuid.uuid4().hex[:12]}{suffix}")


def _left(target: Path, suffix: str) -> Iterator[Path]:
    """What crashed writers left of a folder."""
    return target.parent.glob(f"{glob.escape(_hidden(target))}*{suffix}")


def _hidden(target: Path) -> str:
    return f".{os.fsdecode(os.fsencode(target.name)[:150])}."


# -------------------------------------------------------------------------------------------------------- settling


def _file_mode(path: Path) -> int:
    """Permissions of a new file by the user's umask; libraries that write through files of their own forget them."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = path.stat().st_mode & 0o777
    path.unlink()
    return mode


def _settle(file: Path, mode: int) -> None:
    """Set the permissions of a file and wait until the disk has it."""
    os.chmod(file, mode)
    _synchronize(file)


def _settle_folder(folder: Path) -> None:
    mode = _file_mode(folder / f".{uuid.uuid4().hex}")
    for parent, _, names in os.walk(folder):
        for file in (Path(parent) / name for name in names):
            if not file.is_symlink():
                _settle(file, mode)
        _synchronize(Path(parent))


def _synchronize(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder, where the system can do that."""
    if not path.is_dir():
        _flush(path)
    elif os.name != "nt":
        with suppress(OSError):  # some network disks know no such thing
            _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the folders above ``target``; on failure remove those that were made."""
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # not empty: someone else writes there too
                folder.rmdir()
        raise
