"""Where weights come from: a folder, an installed package or the hub; and proof that they are what was published."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path, PurePosixPath

from subjectgen.core.errors import CheckpointError, nearest
from subjectgen.core.files import atomic_folder, atomic_write

__all__ = ["SUMS", "atomic_folder", "atomic_write", "resolve_checkpoint", "verify", "write_checksums"]

SUMS = "SHA256SUMS"
"""Name of the file with checksums, as ``sha256sum`` writes and checks it."""
PACKAGE = "package:"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def resolve_checkpoint(name: str, *, revision: str | None = None) -> str:
    """Turn a checkpoint's name into what ``from_pretrained`` takes.

    Args:
        name: A local folder (or one ``.safetensors`` file), ``package:some.package/path/inside`` for weights that
            an installed package ships, or a hub id such as ``owner/model``, which is returned untouched.
        revision: A commit of a hub id; local weights have none.

    Returns:
        A local path whose files were verified against its ``SHA256SUMS``, or the hub id.

    Raises:
        CheckpointError: Nothing there, files missing or changed, pickled weights, or a revision of local weights.
    """
    path = _package_path(name) if name.startswith(PACKAGE) else Path(name).expanduser()
    if not path.exists():
        if _looks_local(name):
            raise CheckpointError(f"checkpoint {name!r}: {path} does not exist{_sibling(path)}")
        return name
    if revision is not None:
        raise CheckpointError(f"checkpoint {name!r} is local and has no revision; got revision {revision!r}")
    verify(path)
    return str(path)


def verify(path: str | os.PathLike[str]) -> None:
    """Check a folder, or one file of it, against the folder's ``SHA256SUMS``; without one only pickles are refused.

    A file is read once per process as long as its size and time stay the same.

    Raises:
        CheckpointError: Names the file, and the expected and actual hash where they differ.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if file.suffix in _PICKLES:
            raise CheckpointError(f"{file} may be a pickle, which can run code when read; convert it to safetensors")
    if not (folder / SUMS).is_file():
        return
    expected = dict(_listed(folder))
    for name, digest in expected.items():
        if path.is_dir() or folder / name == path:
            _check(folder / name, digest)
    for file in files:
        if file.suffix == ".safetensors" and file.relative_to(folder).as_posix() not in expected:
            raise CheckpointError(f"{file} is not listed in {folder / SUMS}; {_REMADE}")


_REMADE = "if the weights were made anew on purpose, run subjectgen.core.checkpoint.write_checksums on the folder"


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


# ---------------------------------------------------------------------------------------------------- checksums


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


# -------------------------------------------------------------------------------------------------------- places


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~", PACKAGE)) or name.count("/") != 1 or "\\" in name


def _package_path(name: str) -> Path:
    """Folder inside an installed package, for ``package:some.package/path/inside``."""
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    if ".." in PurePosixPath(inside).parts:
        raise CheckpointError(f"checkpoint {name!r}: the path must stay inside the package")
    try:
        root = resources.files(package)
    except (ImportError, TypeError, ValueError):
        hint = f"; pip install {package.replace('.', '-')}" if package.startswith("subjectgen.") else ""
        raise CheckpointError(f"checkpoint {name!r}: package {package!r} is not installed{hint}") from None
    return Path(str(root.joinpath(inside)))


def _sibling(path: Path) -> str:
    """The nearest existing name beside a path that is not there."""
    folder = path.parent
    while not folder.exists():
        path, folder = folder, folder.parent
    return nearest(path.name, (entry.name for entry in folder.iterdir())) if folder.is_dir() else ""
