"""A process killed at any step of writing leaves all of the old or all of the new."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from subjectgen.core.files import atomic_folder, recover_folder

KILLED = """
import os, shutil, sys
from pathlib import Path
from subjectgen.core import files

mode, root = sys.argv[1], Path(sys.argv[2])
NAMES = ("rename", "replace", "fsync", "chmod", "unlink", "rmdir", "mkdir", "open", "close")


def old(folder):
    target = folder / "run"
    if mode == "folder":
        (target / "inner").mkdir(parents=True)
        for name in ("a", "b", "inner/c"):
            (target / name).write_text("old")
    else:
        folder.mkdir()
        target.write_text("old")


def write(target):
    if mode == "file":
        with files.atomic_write(target) as path:
            path.write_text("new")
        return
    with files.atomic_folder(target) as path:
        (path / "inner").mkdir()
        for name in ("a", "b", "inner/c"):
            (path / name).write_text("new")


def killer(function, deadline, count, after):
    def call(*arguments, **options):
        count[0] += 1
        if count[0] == deadline and not after:
            os._exit(9)
        result = function(*arguments, **options)
        if count[0] == deadline:
            os._exit(9)
        return result
    return call


steps = 0
for after in (False, True):
    for deadline in range(1, 1000):
        folder = root / f"{deadline}-{after}"
        old(folder)
        child = os.fork()
        if not child:
            count = [0]
            for name in NAMES:
                setattr(os, name, killer(getattr(os, name), deadline, count, after))
            write(folder / "run")
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        steps += 1
print(steps)
"""


def content(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_text() for file in files}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied with fork")
@pytest.mark.parametrize("mode", ["file", "folder"])
def test_killed_at_every_step(mode: str, tmp_path: Path) -> None:
    """Before and after every call that changes the disk, in a process that then has no chance to clean up."""
    root = tmp_path / "root"
    root.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, mode, root], capture_output=True, text=True, check=True)
    folders = list(root.iterdir())
    assert int(done.stdout) == len(folders) - 2
    assert len(folders) > (12 if mode == "file" else 40)
    names, seen = ("a", "b", "inner/c") if mode == "folder" else (".",), set()
    for folder in folders:
        recover_folder(folder / "run")
        found = content(folder / "run")
        assert found in (dict.fromkeys(names, age) for age in ("old", "new")), folder
        seen.add(next(iter(found.values())))
        assert not list(folder.glob("*.old"))
    assert seen == {"old", "new"}


def test_what_a_crash_put_aside_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / ".run.0123456789ab.old"
    aside.mkdir()
    (aside / "a").write_text("old")
    half = tmp_path / ".run.ba9876543210.part"
    half.mkdir()
    recover_folder(tmp_path / "run")
    recover_folder(tmp_path / "run")
    assert content(tmp_path / "run") == {"a": "old"}
    os.utime(half, (0, 0))
    with atomic_folder(tmp_path / "run") as folder:
        (folder / "b").write_text("new")
    assert content(tmp_path / "run") == {"b": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "what was half-written long ago is gone"


def test_what_was_put_aside_does_not_replace_what_stands(tmp_path: Path) -> None:
    for name, age in (("run", "new"), (".run.0123456789ab.old", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(age)
    recover_folder(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert content(tmp_path / "run") == {"a": "new"}


RACE = """
import sys
from pathlib import Path
from subjectgen.core.files import atomic_folder, recover_folder
name, target = sys.argv[1], Path(sys.argv[2])
for number in range(25):
    if name == "reader":
        recover_folder(target)
    else:
        with atomic_folder(target) as folder:
            (folder / "a").write_text(f"{name}{number}")
            (folder / "b").write_text(f"{name}{number}")
"""


def test_readers_and_writers_at_once(tmp_path: Path) -> None:
    """Whoever is last wins as a whole, and nobody fails."""
    target = tmp_path / "run"
    command = [sys.executable, "-c", RACE]
    running = [
        subprocess.Popen([*command, name, target], stderr=subprocess.PIPE, text=True)
        for name in ("x", "y", "reader", "reader")
    ]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    found = content(target)
    assert found in ({"a": f"{name}24", "b": f"{name}24"} for name in "xy")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
