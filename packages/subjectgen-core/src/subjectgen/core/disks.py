"""What disks refuse, told before work begins where that can be, and else in one line that names the path."""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from subjectgen.core.errors import InputError

_REFUSALS = {
    number: reason
    for name, reason in {
        "ENOSPC": "the disk is full",
        "EDQUOT": "the quota of the disk is used up",
        "EFBIG": "the file would be larger than is allowed",
        "EACCES": "no permission",
        "EPERM": "no permission",
        "EROFS": "the disk is read-only",
        "EIO": "the disk has failed",
        "ENAMETOOLONG": "the name is too long",
        "ENOTDIR": "a part of the path is a file",
        "EISDIR": "is a folder; expected a file",
        "ELOOP": "its links lead in a circle",
        "ESTALE": "the network disk has lost it",
    }.items()
    if (number := getattr(errno, name, None)) is not None
}


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the disk refuses while ``path`` is written into an :class:`InputError` that names it and the reason."""
    try:
        yield
    except Exception as error:
        reason = _refusal(error, Path(path))
        if reason is None:
            raise
        raise InputError(
            f"{ascii_if_needed(path)}: cannot be written: {reason}; what was there is as it was"
        ) from error


def check_writable(folder: str | os.PathLike[str], *, what: str = "--out") -> None:
    """Try a folder before work begins: it is made, written to and left as it was.

    Args:
        folder: Where files will be written; it and folders above it need not exist yet.
        what: The option that names it, for messages.

    Raises:
        InputError: A file or a dangling link in the way, a name that the file system cannot hold, no permission, or no
            space. Names the part of the path that is wrong.
    """
    target, made = Path(folder), []
    try:
        with explained(target):
            target = resolved(target)
            for part in [*reversed(target.parents), target]:
                if not part.is_dir():
                    _check_free(part, what)
                    part.mkdir()
                    made.append(part)
            _try(target)
    except InputError as error:
        raise error if str(error).startswith(what) else InputError(f"{what}: {error}") from error.__cause__
    finally:
        for part in reversed(made):
            with suppress(OSError):  # someone else writes there by now
                part.rmdir()


def resolved(path: str | os.PathLike[str]) -> Path:
    """The path itself, or what it is a link to.

    Raises:
        InputError: A dangling link on the way, or a name that the file system cannot hold.
    """
    target = Path(path)
    try:
        with explained(target):
            if b"\0" in os.fsencode(target):
                raise ValueError
            links = [part for part in (target, *target.parents) if part.is_symlink()]
            dangling = [part for part in links if not part.exists()]
            if not dangling:
                return target.resolve() if target.is_symlink() else target
    except ValueError:  # UnicodeEncodeError is one
        message = "this system's file names cannot hold all of its letters; expected another name, or a locale of UTF-8"
        raise InputError(f"{ascii_if_needed(path)}: {message}") from None
    raise InputError(f"{dangling[-1]}: is a link to {os.readlink(dangling[-1])!r}, which is not there")


def ascii_if_needed(path: str | os.PathLike[str]) -> str:
    """A path for a message that can be printed anywhere."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return ascii(text)
    return text


def _check_free(part: Path, what: str) -> None:
    if part.exists():
        raise InputError(f"{what}: {part} is a file; expected a folder")


def _try(folder: Path) -> None:
    """Write a few bytes, as every file begins; some disks only refuse then."""
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        with probe.open("xb") as stream:
            stream.write(b"subjectgen")
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        probe.unlink(missing_ok=True)


def _refusal(error: BaseException, path: Path) -> str | None:
    """Why the disk refused ``path``; ``None`` if it is about something else."""
    if isinstance(error, OSError):
        return _REFUSALS.get(error.errno or 0) if _concerns(error.filename, path) else None
    found = re.search(r"\(os error (\d+)\)", str(error))  # as libraries in Rust, safetensors among them, tell it
    return _REFUSALS.get(int(found[1])) if found else None


def _concerns(filename: object, path: Path) -> bool:
    """Whether a file that an error names is the path, on the way to it or beside it; writing itself names none."""
    if not isinstance(filename, (str, bytes)):
        return True
    named = Path(os.fsdecode(filename))
    return named in (path, *path.parents) or path.parent in named.parents
