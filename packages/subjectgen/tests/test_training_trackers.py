"""Trackers get the log's own numbers under its names, each step once, and cannot end a run."""

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from rich.console import Console

from subjectgen.core import InputError
from subjectgen.runner.training import trackers
from subjectgen.runner.training.run import resume, train
from subjectgen.runner.training.run_directory import RunDirectory

OPTIONS = {"phases": [{"steps": 9}], "save_every": 4, "probe_every": 3, "probe_rows": 2}


class Killed(BaseException):
    """As ``kill -9``."""


def numbers(line: dict[str, Any], path: str = "") -> dict[str, float]:
    found = {}
    for key, value in line.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{path}{key}/")
        elif isinstance(value, int | float):
            found[f"{path}{key}"] = value
    return found


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What a tracker shall have, by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file, path in (("metrics.jsonl", ""), ("probe.jsonl", "probe/")):
        for text in (folder / file).read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            for name, value in numbers(line, path).items():
                found.setdefault(name, []).append((line["step"], value))
    return found


class Fake(GeneralTracker):
    """Keeps what it gets, or fails."""

    name, requires_logging_directory = "trackio", False
    made: ClassVar[list["Fake"]] = []
    fails_at: ClassVar[int | None] = None

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.run_name, self.options, self.got, self.ended = run_name, options, [], False
        self.made.append(self)

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict) -> None:
        """Nothing."""

    def log(self, values: dict, step: int | None = None, **_: Any) -> None:
        if self.fails_at is not None and step >= self.fails_at:
            raise ConnectionError("no\nnetwork")
        self.got += [(name, step, value) for name, value in values.items()]

    def finish(self) -> None:
        self.ended = True


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Fake)
    monkeypatch.setitem(trackers.PACKAGES, "trackio", ("json",))
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr(Fake, "fails_at", None)
    return Fake


def by_name(got: list[tuple[str, int, float]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in got:
        found.setdefault(name, []).append((step, value))
    return found


def killed(experiment: Any, folder: Path, monkeypatch, tiny, step: int, *, first: bool) -> None:
    """Run until so many steps were made in this session."""
    begin, made = RunDirectory.begin, []

    def at(self, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(1)
        if len(made) == step:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        patch.setattr(RunDirectory, "begin", at)
        train(experiment, folder) if first else resume(folder, plugins=tiny.plugins())


def options(name: str) -> dict[str, Any]:
    return {"training": {**OPTIONS, "trackers": [name]}}


def test_numbers_arrive_under_the_names_of_the_log(fake, tiny_experiment, tmp_path) -> None:
    folder = train(tiny_experiment(options("trackio")), tmp_path / "run").folder
    (tracker,) = fake.made
    assert by_name(tracker.got) == logged(folder)
    assert tracker.run_name == "run"
    assert tracker.ended


def test_a_run_that_goes_on_sends_no_step_twice(fake, tiny, tiny_experiment, tmp_path, monkeypatch) -> None:
    """Killed after step 7, then after step 6, from the checkpoint of step 4."""
    folder = tmp_path / "run"
    killed(tiny_experiment(options("trackio")), folder, monkeypatch, tiny, 8, first=True)
    killed(None, folder, monkeypatch, tiny, 3, first=False)
    resume(folder, plugins=tiny.plugins())
    found = by_name([one for tracker in fake.made for one in tracker.got])
    assert [step for step, _ in found["loss"]] == list(range(1, 10))
    assert [step for step, _ in found["probe/loss"]] == [3, 6, 9]
    expected = logged(folder)
    assert found["loss"] == expected["loss"]
    assert found["probe/loss"] == expected["probe/loss"]
    assert len({tracker.options["name"] for tracker in fake.made}) == 1
    assert {tracker.options["resume"] for tracker in fake.made} == {"allow"}


def test_a_run_that_begins_again_is_a_new_one(fake, tiny, tiny_experiment, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "run"
    killed(tiny_experiment(options("trackio")), folder, monkeypatch, tiny, 3, first=True)  # before any checkpoint
    train(tiny_experiment(options("trackio")), folder)
    first, second = fake.made
    assert first.options["name"] != second.options["name"]
    assert by_name(second.got) == logged(folder)


def test_a_tracker_that_fails_is_told_of_once_and_the_run_goes_on(fake, tiny_experiment, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Fake, "fails_at", 4)
    said = io.StringIO()
    folder = train(tiny_experiment(options("trackio")), tmp_path / "run", console=Console(file=said)).folder
    assert said.getvalue().count("training.trackers: trackio fails and is left out from now on: no network") == 1
    assert (folder / "trained").is_dir()
    assert [step for step, _ in by_name(fake.made[0].got)["loss"]] == [1, 2, 3]


def test_a_missing_package_is_told_before_anything_is_built(tiny_experiment, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(trackers.PACKAGES, "wandb", ("no_such_package",))
    monkeypatch.setattr("subjectgen.runner.training.run.build_system", None)
    with pytest.raises(InputError) as told:
        train(tiny_experiment(options("wandb")), tmp_path / "run")
    assert str(told.value) == "training.trackers: wandb: not installed; get it by: pip install wandb"
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_does_not_start_is_told(fake, tiny_experiment, tmp_path, monkeypatch) -> None:
    def fails(self: Fake) -> None:
        raise ValueError("no account:\nlog in")

    monkeypatch.setattr(Fake, "start", fails)
    with pytest.raises(InputError, match=r"training\.trackers: trackio: does not start: no account: log in"):
        train(tiny_experiment(options("trackio")), tmp_path / "run")
    monkeypatch.setattr(Fake, "start", lambda self: None)
    train(tiny_experiment(options("trackio")), tmp_path / "run")  # the folder is still free


def test_tensorboard_has_the_log_also_of_a_run_that_went_on(tiny, tiny_experiment, tmp_path, monkeypatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    killed(tiny_experiment(options("tensorboard")), folder, monkeypatch, tiny, 8, first=True)
    resume(folder, plugins=tiny.plugins())
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name, expected in logged(folder).items():
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        if not name.endswith(("seconds", "per_second", "data_wait")):  # of the day, not of the run
            assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)
