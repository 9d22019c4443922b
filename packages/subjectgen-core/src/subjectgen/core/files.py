"""Writing files and folders so that a failure leaves nothing half-written behind."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path in the same folder and with the same suffix to write to; it becomes ``path`` at the end.

    If the block raises, ``path`` is as it was before, and folders made for it are gone.
    """
    target = Path(path)
    with _parents(target):
        temporary = _beside(target)
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``path`` at the end and replaces a folder of that name.

    If the block raises, ``path`` is as it was before.
    """
    target = Path(path)
    with _parents(target):
        temporary, old = _beside(target), _beside(target)
        temporary.mkdir()
        try:
            yield temporary
            if target.exists():  # a folder cannot be replaced in one step unless it is empty
                os.replace(target, old)
            os.replace(temporary, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _beside(target: Path) -> Path:
    """A hidden name that no one else uses; the suffix stays, for writers that go by it."""
    return target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}{target.suffix}")


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the folders above ``target``; on failure remove those that were made."""
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
