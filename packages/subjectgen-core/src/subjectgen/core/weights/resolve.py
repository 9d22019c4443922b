"""Where weights lie: a folder or file, inside an installed package, or on the hub."""

from __future__ import annotations

from importlib import resources
from pathlib import Path, PurePosixPath

from subjectgen.core.errors import CheckpointError, nearest
from subjectgen.core.weights.checksums import verify

PACKAGE = "package:"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def resolve_checkpoint(name: str, *, revision: str | None = None, relative_to: Path | None = None) -> str:
    """Turn a checkpoint's name into what ``from_pretrained`` takes.

    Args:
        name: A local folder (or one ``.safetensors`` file), ``package:some.package/path/inside`` for weights that
            an installed package ships, or a hub id such as ``owner/model``, which is returned untouched.
        revision: A commit of a hub id; local weights have none.
        relative_to: Folder that a relative path starts from, that of the file which says it; ``None`` is the current
            one.

    Returns:
        A local path whose files were verified against its ``SHA256SUMS``, or the hub id.

    Raises:
        CheckpointError: Nothing there, files missing or changed, pickles alone, or a revision of local weights.
    """
    path = local_path(name, relative_to=relative_to)
    if path is None:
        return name
    if not path.exists():
        raise CheckpointError(f"checkpoint {name!r}: {path} does not exist{_sibling(path)}")
    if revision is not None:
        raise CheckpointError(f"checkpoint {name!r} is local and has no revision; got revision {revision!r}")
    _refuse_pickles_alone(path)
    verify(path)
    return str(path)


def local_path(name: str, *, relative_to: Path | None = None) -> Path | None:
    """Where a name points to on this machine, there or not; ``None`` for a hub id."""
    if name.startswith(PACKAGE):
        return _package_path(name)
    path = (relative_to or Path()) / Path(name).expanduser()
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name
    return path if looks_local or path.exists() else None


def _refuse_pickles_alone(path: Path) -> None:
    """A pickle beside safetensors is read by nobody; one that is all there is, would be."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    pickles = [file for file in files if file.suffix in _PICKLES]
    if pickles and not any(file.suffix == ".safetensors" for file in files):
        raise CheckpointError(f"{pickles[0]} may be a pickle, which can run code when read; convert it to safetensors")


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
