"""Proof that weights are what was published: ``SHA256SUMS``, as ``sha256sum`` writes and checks it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from subjectgen.core.errors import CheckpointError
from subjectgen.core.files import atomic_write

SUMS = "SHA256SUMS"
"""Name of the file with checksums."""
_REMADE = "if the weights were made anew on purpose, run subjectgen.core.weights.write_checksums on the folder"


def verify(path: str | os.PathLike[str]) -> None:
    """Check a folder, or one file of it, against the folder's ``SHA256SUMS`` where there is one.

    A file is read once per process as long as its size and time stay the same.

    Raises:
        CheckpointError: Names the file, and the expected and actual hash where they differ.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not (folder / SUMS).is_file():
        return
    expected = dict(_listed(folder))
    for name, digest in expected.items():
        if path.is_dir() or folder / name == path:
            _check(folder / name, digest)
    for file in sorted(folder.rglob("*.safetensors")) if path.is_dir() else [path]:
        if file.suffix == ".safetensors" and file.relative_to(folder).as_posix() not in expected:
            raise CheckpointError(f"{file} is not listed in {folder / SUMS}; {_REMADE}")


def write_checksums(folder: str | os.PathLike[str]) -> Path:
    """Write ``SHA256SUMS`` of all files in ``folder``, hidden ones left out, and return its path."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    names = (path.relative_to(folder).as_posix() for path in files)
    lines = [
        f"{_digest_of(folder / name)}  {name}\n" for name in names if not name.startswith(".") and "/." not in name
    ]
    with atomic_write(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return folder / SUMS


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    """Names and hashes of ``SHA256SUMS``; a name that leaves the folder is refused."""
    for number, line in enumerate((folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        found = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        name = PurePosixPath(found[2]) if found else PurePosixPath("..")
        if found is None or name.is_absolute() or ".." in name.parts:
            raise CheckpointError(
                f"{folder / SUMS}:{number}: got {line[:80]!r}; expected a hash and a file name inside"
            )
        yield str(name), found[1]


def _check(file: Path, expected: str) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; {SUMS} expects it with hash {expected}")
    actual = _digest_of(file)
    if actual != expected:
        raise CheckpointError(f"{file} is truncated or changed: expected hash {expected}, got {actual}; {_REMADE}")


def _digest_of(file: Path) -> str:
    state = file.stat()
    return _digest(str(file.resolve()), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _digest(path: str, modified: int, size: int) -> str:
    """Hash of a file; time and size are part of the cache's key only."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
