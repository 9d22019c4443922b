"""What disks refuse is said in one line, before work where that can be; what was there stays."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from subjectgen.core import InputError
from subjectgen.core.disks import check_writable
from subjectgen.core.files import atomic_folder, atomic_write

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def nobody(tmp_path: Path) -> Run:
    """Run lines of Python in a folder that can be read but not written to, without the rights of root."""
    inner = tmp_path / "inner"
    inner.mkdir()
    inner.chmod(0o555)

    def run(lines: str, **environment: str) -> subprocess.CompletedProcess[str]:
        program = (
            "import os\n"
            "from subjectgen.core import InputError\nfrom subjectgen.core.files import atomic_write, atomic_folder\n"
            "from subjectgen.core.disks import check_writable\nfrom subjectgen.core.naming import slug, unused_path\n"
            "os.getuid() or os.setuid(65534)\n"
        )
        command = [sys.executable, "-B", "-c", program + lines]
        env = {**os.environ, **environment}
        return subprocess.run(command, cwd=inner, env=env, capture_output=True, text=True, check=False)

    return run


# -------------------------------------------------------------------------------------------------- before work begins


def test_a_folder_that_can_be_written_to_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "a" / "b", tmp_path / "link" / "c", str(tmp_path / "d")):
        check_writable(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "circle").symlink_to("circle")
    cases = {
        "file": "file is a file; expected a folder",
        "file/a/b": "file is a file; expected a folder",
        "link": "link: is a link to 'gone', which is not there",
        "link/a": "link: is a link to 'gone', which is not there",
        "circle": "circle",
        "a/" + "x" * 300 + "/b": "cannot be written: the name is too long",
        "a\0b": "file names cannot hold all of its letters",
        "a\ud83e": r"\\ud83e.*file names cannot hold all of its letters",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=f"^--out: .*{message}"):
            check_writable(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file", "link"]


def test_a_folder_without_permission_is_named(nobody: Run) -> None:
    for name in (".", "a/b"):
        done = nobody(f"check_writable({name!r}, what='--to')")
        assert "InputError: --to: " in done.stderr
        assert "cannot be written: no permission" in done.stderr


def test_a_name_that_a_narrow_system_cannot_hold(nobody: Run) -> None:
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = nobody("check_writable('\\u732b')", **narrow)
    assert "InputError: --out: \\u732b: this system's file names cannot hold all of its letters" in done.stderr


# ------------------------------------------------------------------------------------------------------ while writing


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
def test_a_full_disk_is_named_and_the_old_stays(write: Any, tmp_path: Path) -> None:
    target = tmp_path / "weights"
    with write(target) as path:
        (path if write is atomic_write else path / "a").write_text("old")
    with (
        pytest.raises(InputError, match=r"weights: cannot be written: the disk is full; what was there"),
        write(target),
    ):
        Path("/dev/full").write_bytes(bytes(100_000))
    assert (target if write is atomic_write else target / "a").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["weights"]


LIMITED = """
import resource, torch
from safetensors.torch import save_file
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
with {write}:
    save_file({{"a": torch.zeros(100_000)}}, {path})
"""


@pytest.mark.parametrize("write", ["atomic_write(p) as t", "atomic_folder(p) as t"])
def test_safetensors_tells_it_in_words_of_its_own(write: str, tmp_path: Path) -> None:
    program = f"from pathlib import Path\nfrom subjectgen.core.files import *\np = Path({str(tmp_path / 'a')!r})\n"
    program += LIMITED.format(write=write, path="t" if "write" in write else "t / 'a'")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "InputError" in done.stderr
    assert "a: cannot be written: the file would be larger than is allowed" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_without_permission_while_writing(nobody: Run) -> None:
    for line in ("atomic_write('a/b.png')", "atomic_write('b.png')", "atomic_folder('b')"):
        done = nobody(f"with {line}: pass")
        assert "InputError: " in done.stderr
        assert "cannot be written: no permission" in done.stderr
    assert "cannot be written: no permission" in nobody("unused_path('.', 'a', '.png')").stderr


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    """A file that is read while another is written is not the one that cannot be written."""
    for error in (
        PermissionError(errno.EACCES, "Permission denied", "/etc/shadow"),
        FileNotFoundError(errno.ENOENT, "No such file", "toy.png"),
        ValueError("(os error)"),
    ):
        with pytest.raises(type(error)) as caught, atomic_write(tmp_path / "a"):
            raise error
        assert caught.value is error


# -------------------------------------------------------------------------------------------- permissions and links


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_permissions_of_the_umask(mask: int, tmp_path: Path) -> None:
    """Also those that a library writes through files of its own, as safetensors does."""
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "a.safetensors") as path:
            save_file({"a": torch.zeros(1)}, path)
        with atomic_folder(tmp_path / "run") as folder:
            save_file({"a": torch.zeros(1)}, folder / "b.safetensors")
    finally:
        os.umask(before)
    for file in (tmp_path / "a.safetensors", tmp_path / "run" / "b.safetensors"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o777 & ~mask


def test_links_are_followed(tmp_path: Path) -> None:
    """Who keeps results on another disk finds them there."""
    disk = tmp_path / "disk"
    (disk / "run").mkdir(parents=True)
    (disk / "a.txt").touch()
    for name in ("run", "a.txt"):
        (tmp_path / name).symlink_to(disk / name)
    with atomic_write(tmp_path / "a.txt") as path:
        path.write_text("new")
    with atomic_folder(tmp_path / "run") as folder:
        (folder / "b").write_text("new")
    assert (disk / "a.txt").read_text() == (disk / "run" / "b").read_text() == "new"
    assert (tmp_path / "run").is_symlink()
    assert not (tmp_path / "run").readlink().is_symlink()
