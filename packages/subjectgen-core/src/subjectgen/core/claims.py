"""A folder belongs to one run at a time."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from subjectgen.core.disks import check_writable, explained, resolved
from subjectgen.core.errors import InputError
from subjectgen.core.files import is_hidden

CLAIM = ".in-use.json"
"""Name of the file that holds the claim while a run works."""
ATTEMPTS = 40
"""How often, at most, a claim is tried while others clear away one that was left."""
_UNKNOWN = {"process": "?", "machine": "?", "since": "?"}


@contextmanager
def claim_folder(folder: str | os.PathLike[str], *, new: bool = True, what: str = "--out") -> Iterator[Path]:
    """Hold a folder for one run; it is made if it is not there, and of two runs that begin together one is refused.

    A claim ends with the block. One that a crash left behind is taken over if its process is gone from this machine.

    Args:
        folder: The folder.
        new: Refuse a folder that holds anything; ``False`` to go on with what a former run began.
        what: The option that names it, for messages.

    Raises:
        InputError: Another run holds it (named by process, machine and time), it is not empty, or it cannot be written.
    """
    check_writable(folder, what=what)
    place = resolved(folder)
    found = place.exists()
    with explained(place):
        place.mkdir(parents=True, exist_ok=True)
        _claim(place, what)
    try:
        if new and any(not is_hidden(entry.name) for entry in place.iterdir()):
            raise InputError(f"{what}: {folder} exists and is not empty; expected a new folder")
        yield place
    finally:
        (place / CLAIM).unlink(missing_ok=True)
        if not found:
            with suppress(OSError):  # only if nothing came of it
                place.rmdir()


def _claim(place: Path, what: str) -> None:
    """Make the file of the claim, which only one process can."""
    mine = {"process": os.getpid(), "born": _born(os.getpid()), "machine": socket.gethostname()}
    for _ in range(ATTEMPTS):
        try:
            with (place / CLAIM).open("x", encoding="utf-8") as stream:
                json.dump({**mine, "since": datetime.now(UTC).isoformat(timespec="seconds")}, stream)
            return
        except FileExistsError:
            _clear(place, what)
    raise InputError(f"{what}: {place} is being claimed by other runs; expected a folder of its own")


def _clear(place: Path, what: str) -> None:
    """Remove a claim whose process is gone; refuse to take one that may be alive.

    One at a time: between looking and removing, another process might have made a claim of its own.
    """
    lock = place / f"{CLAIM}.lock"
    try:
        lock.touch(exist_ok=False)
    except FileExistsError:
        time.sleep(0.05)
        return
    try:
        theirs = _read(place / CLAIM)
        if theirs is not None and not _is_gone(theirs):
            who = "process {process} on {machine}, since {since}".format(**_UNKNOWN | theirs)
            raise InputError(
                f"{what}: {place} is in use by another run ({who}); expected another folder (if that run is gone for "
                f"certain, remove {place / CLAIM})"
            )
        (place / CLAIM).unlink(missing_ok=True)
    finally:
        lock.unlink()


def _read(claim: Path) -> dict[str, Any] | None:
    """What a claim says: nothing while it is being written, ``None`` where there is none any more."""
    try:
        found = json.loads(claim.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_gone(theirs: dict[str, Any]) -> bool:
    here = theirs.get("machine") == socket.gethostname() and isinstance(theirs.get("process"), int)
    if not here or os.name == "nt":  # there, asking a process whether it lives would end it
        return False
    try:
        os.kill(theirs["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # alive, of another user
        return False
    return _born(theirs["process"]) != theirs.get("born")


def _born(process: int) -> str | None:
    """When a living process began, in the system's ticks, so that a number used again is noticed; Linux only."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return None
