"""What a run says while it goes on, on a terminal and without one."""

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from subjectgen.runner.training import pace, progress
from subjectgen.runner.training.pace import Pace
from subjectgen.runner.training.progress import EVERY, Progress
from subjectgen.runner.training.run import train


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on when the test says so."""
    now = [1000.0]
    for module in (pace, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds: float) -> float:
        now[0] += seconds
        return now[0]

    return wait


def test_a_terminal_shows_a_bar_per_phase_with_losses_speed_and_time_left(tiny_experiment, tmp_path) -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=160)
    phases = [{"branches": ["words"], "steps": 8}, {"steps": 6, "stage_masks": True}]
    train(tiny_experiment({"training": {"phases": phases}}), tmp_path / "run", console=console)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.getvalue())
    for bar in (r"phase 1 \(words\) .*8/8 loss all \d\.\d{3}", r"phase 2 \(.*6/6 loss .*(early|middle|late) \d\.\d{3}"):
        shown = [match.group() for match in re.finditer(rf"{bar}.*", text)]
        assert shown
        assert re.search(r"[\d.e+]+ (steps/s|s/step), 0:00:00 left", shown[-1]), shown[-1]


def test_plain_lines_keep_their_distance_and_name_speed_and_time_left(clock) -> None:
    said = io.StringIO()
    plain = Progress(Console(file=said))
    times = []
    with plain.phase("phase 1", 1000):
        begun = clock(0)
        for step in range(1, 101):
            clock(1.0)
            plain.step_done()
            before = said.getvalue()
            plain.logged(f"step {step}", "loss all 0.500")
            if said.getvalue() != before:
                times.append(clock(0) - begun)
    assert times == [EVERY * n for n in range(1, 7)]
    assert said.getvalue().splitlines()[0] == "phase 1: 1000 steps"
    assert said.getvalue().splitlines()[1] == "step 15: loss all 0.500; 1 steps/s, 0:16:25 left"


def test_one_long_step_is_said_again_with_speed_and_time_left(clock, monkeypatch) -> None:
    said = io.StringIO()
    plain = Progress(Console(file=said))
    waits = iter([False] * 30 + [True])

    def waited(_seconds: float) -> bool:
        clock(1.0)
        return next(waits)

    with plain.phase("phase 1", 11):
        clock(20.0)
        plain.step_done()
        plain.doing("step 2: reading samples")
        monkeypatch.setattr(plain._ended, "wait", waited)
        said.truncate(0)
        said.seek(0)
        plain.say("now")
        plain._remind()
    assert said.getvalue().splitlines() == [
        "now",
        "step 2: reading samples ... 15 s; 20 s/step, 0:03:20 left",
        "step 2: reading samples ... 30 s; 20 s/step, 0:03:20 left",
    ]


def test_notes_of_one_kind_keep_their_distance_without_a_terminal(clock) -> None:
    for terminal, expected in ((False, ["a 0", "b 0", "a 15"]), (True, ["a 0", "b 0", "a 1", "a 15"])):
        said = io.StringIO()
        one = Progress(Console(file=said, force_terminal=terminal))
        for kind, wait in (("a", 0), ("b", 0), ("a", 1), ("a", 14)):
            clock(wait)
            one.note(kind, f"{kind} {15 if wait == 14 else wait}")
        assert said.getvalue().splitlines() == expected


def made(clock: Any, steps: int, *seconds: float) -> Pace:
    one = Pace(steps)
    for duration in seconds:
        clock(duration)
        one.step_done()
    return one


def test_speed_is_that_of_the_last_steps_without_the_first_and_without_looks(clock) -> None:
    assert str(Pace(3)) == ""
    assert str(made(clock, 10, 20.0)) == "20 s/step, 0:03:00 left"
    assert str(made(clock, 10, 20.0, 2.0, 2.0)) == "2 s/step, 0:00:14 left"
    assert made(clock, 1000, *[9.0] * 50, *[0.5] * 100).steps_per_second == pytest.approx(2.0)
    one = made(clock, 100_000, 5.0, 4.0)
    clock(60.0)
    one.looked(60.0)
    clock(4.0)
    one.step_done()
    assert str(one) == "4 s/step, 4 d 15:06:28 left"
