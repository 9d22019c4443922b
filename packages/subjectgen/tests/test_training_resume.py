"""A run that was ended at any moment and went on is, bit for bit, the run that was never ended."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file

from subjectgen.core import CheckpointError, ConfigError, InputError
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.training.interruption import Interrupted
from subjectgen.runner.training.run import resume, train
from subjectgen.runner.training.run_directory import RunDirectory

TIMES = ("seconds", "samples_per_second", "data_wait")
"""What of the log is not of the run, but of the day."""
OPTIONS: dict[str, Any] = {
    "phases": [
        {"branches": ["words"], "steps": 4},
        {
            "steps": 7,
            "mixture": [
                {"dataset": {"name": "tiny_pairs", "count": 5}, "weight": 2},
                {"dataset": {"name": "tiny_pairs", "seed": 1}},
            ],
        },
    ],
    "dataset": {"count": 6},
    "batch_size": 4,
    "ema_decay": 0.9,
    "log_every": 3,
    "save_every": 2,
    "lr_schedule": "cosine",
    "warmup_steps": 3,
    "probe_every": 3,
    "probe_rows": 3,
    "samples_every": 5,
    "samples_rows": 1,
}
"""Epochs of one and a half steps, a mixture, an average, lines of the log that checkpoints fall between, and looks."""
STEPS = 11


def experiment(tiny_experiment, **changes: Any):
    return tiny_experiment({"training": {**OPTIONS, **changes}})


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, optimizer and average of the last checkpoint, and what the run was for."""
    kept = sorted((folder / "checkpoints").iterdir())[-1]
    files = [*kept.rglob("*.safetensors"), *(folder / "trained").rglob("*.safetensors")]
    return {f"{file.relative_to(folder)}:{key}": value for file in files for key, value in load_file(file).items()}


def log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def assert_same(folder: Path, whole: Path) -> None:
    expected, found = state(whole), state(folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert log(folder) == log(whole)
    probes = [one / "probe.jsonl" for one in (folder, whole)]
    assert probes[0].is_file() == probes[1].is_file()
    assert not probes[0].is_file() or probes[0].read_bytes() == probes[1].read_bytes()
    assert pictures(folder) == pictures(whole)


def pictures(folder: Path) -> dict[str, bytes]:
    files = sorted((folder / "samples").rglob("*.png"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(tiny_experiment, tmp_path_factory) -> Path:
    return train(experiment(tiny_experiment), tmp_path_factory.mktemp("whole") / "run").folder


class Killed(BaseException):
    """As ``kill -9``: nothing is saved, nothing is cleaned up."""


def killed_at(monkeypatch, step: int) -> None:
    begin = RunDirectory.begin

    def at(self, *arguments: Any) -> None:
        begin(self, *arguments)
        at.made += 1
        if at.made == step:
            raise Killed

    at.made = 0
    monkeypatch.setattr(RunDirectory, "begin", at)


def go_on(folder: Path, tiny, **options: Any):
    return resume(folder, plugins=tiny.plugins(), **options)


@pytest.mark.parametrize("kills", [[1], [3, 3], [4, 1], [5, 2, 3], [10, 2], [2] * 3])
def test_killed_again_and_again_it_is_the_same_run(
    tiny, tiny_experiment, whole, tmp_path, monkeypatch, kills: list[int]
) -> None:
    """Before the first checkpoint, at the end of an epoch and of a phase, between lines of the log; more than once."""
    folder = tmp_path / "run"
    for number, made in enumerate(kills):
        with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
            killed_at(patch, made)
            go_on(folder, tiny) if number else train(experiment(tiny_experiment), folder)
    go_on(folder, tiny)
    assert_same(folder, whole)


def test_a_signal_at_any_step_costs_nothing(tiny, tiny_experiment, whole, tmp_path, monkeypatch) -> None:
    @settings(deadline=None, max_examples=4, derandomize=True)
    @given(step=st.integers(1, STEPS - 1), number=st.sampled_from([signal.SIGINT, signal.SIGTERM]))
    def law(step: int, number: int) -> None:
        folder = tmp_path / f"{step}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        begin, made = RunDirectory.begin, []

        def at(self, *arguments: Any) -> None:
            begin(self, *arguments)
            made.append(1)
            if len(made) == step:
                signal.raise_signal(number)

        with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"after step {step},"):  # noqa: PT012
            patch.setattr(RunDirectory, "begin", at)
            train(experiment(tiny_experiment, save_every=None), folder)
        go_on(folder, tiny)
        assert_same(folder, whole)

    law()


def stopped(tiny_experiment, folder: Path, monkeypatch, step: int = 6, **changes: Any) -> Path:
    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        killed_at(patch, step)
        train(experiment(tiny_experiment, **changes), folder)
    return folder


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("changed", ["workers=2", "micro_batch=8", "log_every=3", "keep_last=9"])
def test_what_changes_no_number_may_change(tiny, tiny_experiment, whole, tmp_path, monkeypatch, changed: str) -> None:
    folder = stopped(tiny_experiment, tmp_path / "run", monkeypatch)
    go_on(folder, tiny, overrides=[f"training.{changed}"])
    assert_same(folder, whole)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("training.learning_rate=0.5", r"training\.learning_rate: began with 0\.01; now 0\.5"),
        ("training.batch_size=3", r"training\.batch_size: began with 4; now 3"),
        ("seed=1", r"seed: began with 0; now 1"),
        ("training.phases.1.mixture.0.weight=3", r"phases\.1\.data\.0\.weight: began with 2\.0; now 3\.0"),
        ("training.dataset.count=7", r"phases\.0\.data\.0\.count: began with 6; now 7"),
        ("schedule.tau1=0.9", r"schedule\.tau1: began with 0\.7; now 0\.9"),
        ("backbone.trained=false", r"trained with backbone\.trained: true"),
    ],
)
def test_what_changes_numbers_is_refused_by_name(
    tiny, tiny_experiment, tmp_path, monkeypatch, changed: str, said: str
) -> None:
    folder = stopped(tiny_experiment, tmp_path / "run", monkeypatch)
    before = state(folder)
    with pytest.raises((ConfigError, CheckpointError), match=said):
        go_on(folder, tiny, overrides=[changed])
    assert state(folder).keys() == before.keys()


@pytest.mark.parametrize("harm", ["missing", "truncated", "flipped"])
@pytest.mark.parametrize("name", ["optimizer.safetensors", "trained/wave.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(
    tiny, tiny_experiment, whole, tmp_path, monkeypatch, capsys, harm: str, name: str
) -> None:
    folder = stopped(tiny_experiment, tmp_path / "run", monkeypatch)
    kept = sorted((folder / "checkpoints").iterdir())
    assert [one.name for one in kept] == ["step-00000002", "step-00000004"]
    file = kept[-1] / name
    content = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    elif harm == "truncated":
        file.write_bytes(content[:-7])
    else:
        content[-9] ^= 1
        file.write_bytes(content)
    go_on(folder, tiny)
    said = capsys.readouterr().err
    assert "passed over a checkpoint that is not whole" in said
    assert Path(name).name in said
    assert "going on after step 2" in said
    assert_same(folder, whole)


def test_modules_that_draw_in_training_go_on_too(write, plugins, tmp_path, monkeypatch) -> None:
    """Aggregators with a generator of their own drew other numbers after a resume."""
    options = {"phases": [{"steps": 3}], "save_every": 1, "batch_size": 2}
    changes = {"branches": {"mllm": {"aggregator": {"name": "blend_vit"}}}, "training": options}
    whole = train(Experiment.read(write(changes), plugins=plugins), tmp_path / "whole").folder
    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        killed_at(patch, 2)
        train(Experiment.read(write(changes), plugins=plugins), tmp_path / "run")
    resume(tmp_path / "run", plugins=plugins)
    assert_same(tmp_path / "run", whole)


def test_what_holds_no_run_and_what_has_ended_is_said(tiny, whole, tmp_path) -> None:
    with pytest.raises(InputError, match="holds no run to go on with"):
        go_on(tmp_path, tiny)
    with pytest.raises(InputError, match="this run has ended; to train on from its weights"):
        go_on(whole, tiny)


def test_the_last_checkpoints_are_kept_and_some_of_all(tiny_experiment, tmp_path) -> None:
    changes = {"save_every": 1, "keep_last": 2, "keep_every": 4}
    folder = train(experiment(tiny_experiment, **changes), tmp_path / "run").folder
    kept = sorted(one.name for one in (folder / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in (4, 8, 10, 11)]


def test_a_finished_run_holds_averages_and_a_checkpoint_the_weights(tiny_experiment, whole) -> None:
    average = load_file(whole / "checkpoints" / "step-00000011" / "average.safetensors")
    found = load_file(whole / "trained" / "wave.safetensors")
    raw = load_file(whole / "checkpoints" / "step-00000011" / "trained" / "wave.safetensors")
    for name, value in found.items():
        assert torch.equal(value, average[f"backbone.{name}"])
    assert any(not torch.equal(value, raw[name]) for name, value in found.items())
