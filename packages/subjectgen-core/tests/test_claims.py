"""A folder belongs to one run at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from subjectgen.core import InputError
from subjectgen.core.claims import CLAIM, claim_folder

HOLD = """
import os, sys, time
from pathlib import Path
from subjectgen.core import InputError
from subjectgen.core.claims import claim_folder
try:
    with claim_folder(sys.argv[1], new=False):
        with open(Path(sys.argv[1]) / "won", "a") as stream:
            stream.write(f"{os.getpid()}\\n")
        print("mine", flush=True)
        sys.stdin.read()
        if sys.argv[2] == "crash":
            os._exit(9)
except InputError as error:
    print(error, flush=True)
"""


def start(folder: Path, end: str = "end") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), end]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_of_runs_that_begin_together_one_wins_and_the_others_name_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    running = [start(folder) for _ in range(4)]
    said = [process.stdout.readline().strip() for process in running if process.stdout]
    winner = running[said.index("mine")]
    for text in (text for text in said if text != "mine"):
        assert text.startswith(f"--out: {folder} is in use by another run (process {winner.pid} on ")
        assert str(folder / CLAIM) in text
    for process in running:
        process.communicate(timeout=60)
    assert (folder / "won").read_text() == f"{winner.pid}\n"
    assert [path.name for path in folder.iterdir()] == ["won"]


def test_a_claim_that_a_crash_left_is_taken_over_by_one(tmp_path: Path) -> None:
    crashed = start(tmp_path, "crash")
    assert crashed.stdout is not None
    assert crashed.stdout.readline() == "mine\n"
    with (
        pytest.raises(InputError, match=rf"is in use by another run \(process {crashed.pid} on "),
        claim_folder(tmp_path, new=False),
    ):
        pass
    crashed.communicate(timeout=60)
    assert (tmp_path / CLAIM).exists()
    running = [start(tmp_path) for _ in range(4)]
    said = [process.stdout.readline().strip() for process in running if process.stdout]
    for process in running:
        process.communicate(timeout=60)
    assert said.count("mine") == 1
    assert len((tmp_path / "won").read_text().split()) == 2


@pytest.mark.parametrize("change", [{"machine": "elsewhere"}, {"process": "?"}, None])
def test_who_cannot_be_asked_may_be_alive(change: dict[str, str] | None, tmp_path: Path) -> None:
    theirs = {"process": os.getpid(), "machine": "here", "since": "then"}
    (tmp_path / CLAIM).write_text("" if change is None else json.dumps(theirs | change))
    with pytest.raises(InputError, match="is in use by another run"), claim_folder(tmp_path, new=False):
        pass
    assert (tmp_path / CLAIM).exists()


def test_a_process_number_used_again_is_not_the_run(tmp_path: Path) -> None:
    with claim_folder(tmp_path) as folder:
        theirs = json.loads((folder / CLAIM).read_text())
    assert "/" not in json.dumps(theirs), "no path is written"
    (tmp_path / CLAIM).write_text(json.dumps({**theirs, "born": "1"}))
    with claim_folder(tmp_path):
        pass


def test_a_new_folder_is_new_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with claim_folder(folder):
            raise ValueError("stop")

    for folder in (tmp_path / "run", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
            (folder / ".DS_Store").touch()
        with pytest.raises(ValueError, match="stop"):
            fail(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    (tmp_path / "empty" / "weights").touch()
    with pytest.raises(InputError, match=r"--out: .*empty exists and is not empty; expected a new folder"):
        fail(tmp_path / "empty")
    with claim_folder(tmp_path / "empty", new=False) as folder:
        assert folder == tmp_path / "empty"
