"""One process at a time in a folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from subjectgen.core import InputError

LOCK = ".lock"
"""Name of the file that says who uses a folder."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Nobody else claims the folder meanwhile; folders that were made for it are gone afterwards, if they are empty.

    Raises:
        InputError: Another process has it; names the process and the file to remove should it be gone.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK
    _take(lock, folder)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _take(lock: Path, folder: Path) -> None:
    own = {"host": socket.gethostname(), "process": os.getpid()}
    for _ in range(2):
        try:
            with lock.open("x", encoding="utf-8") as file:
                json.dump(own, file)
        except FileExistsError:
            holder = _holder(lock)
            if holder.get("host") != own["host"] or _alive(holder.get("process")):
                break
            lock.unlink(missing_ok=True)  # its process is gone
        else:
            return
    holder = _holder(lock)
    raise InputError(
        f"{folder}: in use by process {holder.get('process', '?')} on {holder.get('host', '?')}; expected another "
        f"folder (--out). If that process is gone: rm {lock}"
    )


def _holder(lock: Path) -> dict[str, object]:
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _alive(process: object) -> bool:
    if not isinstance(process, int):
        return True  # nobody knows
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
