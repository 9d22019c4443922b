"""What is said while something runs: lines of their own, on a terminal and without one."""

import os
import re
import subprocess
import sys
import time

import pytest

TWO_BATCHES = """
from types import SimpleNamespace
from subjectgen.runner.cli.progress import Steps
with Steps("sampling") as steps:
    for name in ("one", "two"):
        steps.expect(1, name)
        for index in range(4):
            steps(SimpleNamespace(steps=4, timestep=1 - index / 4, stage="early"))
        steps.say(f"{name}: right 50 %")
"""


def on_a_terminal(program: str, *, piped: bool = False) -> tuple[list[str], str]:
    """Lines that a Python program leaves on a terminal, without its colours; ``piped``: its output goes elsewhere."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    out = subprocess.PIPE if piped else theirs
    process = subprocess.Popen([sys.executable, "-c", program], stdout=out, stderr=theirs, env=environment, text=True)
    os.close(theirs)
    found = b""
    try:
        while piece := os.read(ours, 4096):
            found += piece
    except OSError:  # the terminal is gone with its last process
        pass
    os.close(ours)
    said = process.communicate()[0] if piped else ""
    assert process.wait() == 0
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", found.decode())), said


def test_lines_stand_alone_beside_a_bar() -> None:
    """They were written at the end of the bar's line."""
    lines, _ = on_a_terminal(TWO_BATCHES)
    assert [line for line in lines if "right" in line] == ["one: right 50 %", "two: right 50 %"]
    assert any("4/4" in line for line in lines), "there was a bar"


def test_lines_are_output_where_only_the_bar_is_on_a_terminal() -> None:
    lines, said = on_a_terminal(TWO_BATCHES, piped=True)
    assert said.splitlines() == ["one: right 50 %", "two: right 50 %"]
    assert not [line for line in lines if "right" in line]


def test_plain_lines_without_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_BATCHES], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["one: right 50 %", "two: right 50 %"]
    assert done.stderr.splitlines() == ["one: 1 batch", "two: 1 batch"]


def test_loading_says_nothing_of_what_is_over_soon(capsys: pytest.CaptureFixture[str]) -> None:
    from subjectgen.runner.cli.progress import Loading

    with Loading("a file", after=5.0):
        pass
    assert capsys.readouterr().err == ""
    with Loading("a model", after=0.01):
        time.sleep(0.3)
    assert capsys.readouterr().err == "a model ...\n"
