"""The run's folder: what it says, what it never holds, and what is left when something goes wrong."""

import json
import resource
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file

from subjectgen.core import CheckpointError, InputError
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.trained import facts, load_trained, trained_values
from subjectgen.runner.training.data_fingerprint import data_fingerprint
from subjectgen.runner.training.interruption import Interrupted
from subjectgen.runner.training.positions import generator
from subjectgen.runner.training.run import train
from subjectgen.runner.training.run_directory import RunDirectory, anchored
from subjectgen.runner.training.snapshot import take

FILES = ["checkpoints", "experiment.yaml", "metrics.jsonl", "run.json", "trained"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest(folder: Path) -> Path:
    return sorted((folder / "checkpoints").iterdir())[-1]


def step_of(folder: Path) -> int:
    return json.loads((folder / "trained" / "trained.json").read_text())["step"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "trained").glob("*.safetensors"))
    return {f"{file.stem}.{key}": value for file in files for key, value in load_file(file).items()}


def order_of(count: int = 12) -> list[int]:
    """Samples of the first epoch of the first phase."""
    return torch.randperm(count, generator=generator(0, "epoch", 0, 0, 0, 0)).tolist()


@pytest.fixture(scope="module")
def run(tiny_experiment, tmp_path_factory) -> Path:
    return train(tiny_experiment(), tmp_path_factory.mktemp("runs") / "run").folder


# ------------------------------------------------------------------------------------------------- what it says


def test_a_run_describes_itself(run) -> None:
    assert names(run) == FILES
    said = json.loads((run / "run.json").read_text())
    assert said["plugins"] == {"tiny": "0"}
    assert said["started_from"] is None
    assert said["datasets"][0]["samples"] == 12
    assert said["parts"]["backbone"]["trainable"] > 0
    assert {"command", "git", "versions", "seed"} <= said.keys()
    assert str(Path(sys.prefix)) not in (run / "run.json").read_text()
    assert step_of(run) == 6


def test_a_run_names_its_own_weights_and_never_inherited_ones(run, tiny_experiment, tmp_path, capsys) -> None:
    """Fault O12: the record said other weights than were trained, and ``trained`` was ignored."""
    changes = {"trained": str(run), "training": {"phases": [{"steps": 1}], "learning_rate": 1e-12}}
    tuned = train(tiny_experiment(changes), tmp_path / "tuned").folder
    assert capsys.readouterr().err.count("starting from the trained parts of") == 1
    assert yaml.safe_load((tuned / "experiment.yaml").read_text())["trained"] == "./trained"
    assert json.loads((tuned / "run.json").read_text())["started_from"].endswith("run")
    before, after = weights(run), weights(tuned)
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


def test_paths_of_a_run_hold_wherever_it_is_moved_with_its_neighbours(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = {"a": [{"checkpoint": str(tmp_path / "weights" / "vae")}], "b": "/elsewhere/vae", "c": "./x", "d": 1}
    found = anchored(tree, tmp_path / "runs" / "one")
    assert found == {**tree, "a": [{"checkpoint": "./../../weights/vae"}]}


def test_the_weights_of_a_run_load(run, tiny_experiment) -> None:
    loaded = load_trained(build_system(tiny_experiment({"trained": str(run)})))
    for name, value in weights(run).items():
        name = name.replace("wave.", "backbone.")
        torch.testing.assert_close(loaded.trainable()[name], value)


# ----------------------------------------------------------------------------------------- nothing that is not finite


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tiny_experiment, tmp_path) -> None:
    """Fault P4: with ``save_every`` below ``log_every``, it was overwritten."""
    out, harmed = tmp_path / "run", order_of()[9]
    options = {"dataset": {"harmed": harmed}, "phases": [{"steps": 5}], "save_every": 1, "log_every": 5}
    with pytest.raises(InputError, match=r"loss is nan at step 3.*last good checkpoint is that of step 2"):
        train(tiny_experiment({"training": options}), out)
    assert step_of(newest(out)) == 2
    assert all(value.isfinite().all() for value in weights(newest(out)).values())


def test_steps_that_are_not_finite_can_be_left_out_and_are_counted(tiny_experiment, tmp_path) -> None:
    options = {"dataset": {"harmed": order_of()[9]}, "phases": [{"steps": 3}], "skip_nonfinite": 1}
    folder = train(tiny_experiment({"training": options}), tmp_path / "run").folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 0, 1]
    assert [line["samples"] for line in lines] == [4, 4, 0]
    assert all(value.isfinite().all() for value in weights(folder).values())


def test_a_folder_without_a_checkpoint_is_used_again(tiny_experiment, tmp_path) -> None:
    out, harmed = tmp_path / "run", order_of()[5]
    with pytest.raises(InputError, match=r"loss is nan at step 2.*there is no checkpoint yet"):
        train(tiny_experiment({"training": {"dataset": {"harmed": harmed}, "phases": [{"steps": 5}]}}), out)
    assert names(out) == [name for name in FILES if name not in ("trained", "checkpoints")]
    train(tiny_experiment(), out)
    assert names(out) == FILES
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


@contextmanager
def begun(tiny_experiment, out: Path):
    """A folder with a checkpoint of step 1, and a function that saves a later one."""
    system = build_system(tiny_experiment())
    settings = system.experiment.settings.training
    optimizer = torch.optim.AdamW(system.trainable().values())
    with RunDirectory.claimed(out) as folder:

        def save(step: int) -> None:
            snapshot = take(trained_values(system), system.trainable(), optimizer, None, {"step": step})
            folder.write(snapshot, system, facts(system), settings)

        folder.begin(system, list)
        save(1)
        yield system, folder, save


def test_a_parameter_that_is_not_finite_is_never_written(tiny_experiment, tmp_path) -> None:
    with begun(tiny_experiment, tmp_path / "run") as (system, folder, save):
        name, parameter = next(iter(system.trainable().items()))
        parameter.data.flatten()[0] = torch.inf
        with pytest.raises(CheckpointError, match=rf"{name}: .*not finite"):
            save(2)
        assert [one.name for one in folder.checkpoints] == ["step-00000001"]


# --------------------------------------------------------------------------------------------------- disks, crashes


@contextmanager
def largest_file(size: int):
    """As on a full disk: nothing larger can be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 200, 500])
def test_a_full_disk_costs_no_earlier_checkpoint(tiny_experiment, tmp_path, size: int) -> None:
    """Fault E7: a traceback of safetensors, and the weights were gone."""
    with begun(tiny_experiment, tmp_path / "run") as (system, folder, save):
        before = weights(newest(folder.folder))
        for parameter in system.trainable().values():
            parameter.data.add_(1)
        with largest_file(size), pytest.raises(InputError, match=r"cannot be written.*that of step 1"):
            save(2)
        assert step_of(newest(folder.folder)) == 1
        assert all(torch.equal(value, before[key]) for key, value in weights(newest(folder.folder)).items())
        save(2)
        assert step_of(newest(folder.folder)) == 2


PIECES = ["wave", "branches.words.aggregator", "branches.pictures.injector", "optimizer"]


@pytest.mark.parametrize("piece", PIECES)
def test_a_crash_between_the_files_of_a_checkpoint_mixes_no_ages(tiny_experiment, tmp_path, monkeypatch, piece) -> None:
    """Fault P14."""
    with begun(tiny_experiment, tmp_path / "run") as (system, folder, save):
        before = weights(newest(folder.folder))
        for parameter in system.trainable().values():
            parameter.data.add_(1)

        def crash(tensors, path, **options):
            if Path(path).stem == piece:
                raise KeyboardInterrupt
            return save_file(tensors, path, **options)

        places = ("subjectgen.runner.system.trained", "subjectgen.runner.training.snapshot", "tiny_parts")
        for place in places:
            monkeypatch.setattr(f"{place}.save_file", crash)
        with pytest.raises(KeyboardInterrupt):
            save(2)
        assert [one.name for one in folder.checkpoints] == ["step-00000001"]
        assert all(torch.equal(value, before[key]) for key, value in weights(newest(folder.folder)).items())


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_after_its_step(tiny_experiment, tmp_path, monkeypatch, number: int, code: int) -> None:
    """Fault E8: no word, no weights, and a folder that blocked a retry."""
    out, log = tmp_path / "run", RunDirectory.log

    def signalled(folder, line, *file) -> None:
        log(folder, line, *file)
        if line["step"] == 2:
            signal.raise_signal(number)

    monkeypatch.setattr(RunDirectory, "log", signalled)
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"{signal.Signals(number).name}: stopped after step 2.*--resume") as ended:
        train(tiny_experiment(), out)
    assert ended.value.exit_code == code
    assert signal.getsignal(number) is handler
    assert step_of(newest(out)) == 2
    assert names(out) == [name for name in FILES if name != "trained"]
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"holds a run with a checkpoint.*train --resume .*run"):
        train(tiny_experiment(), out)


def test_a_second_signal_ends_it_at_once(tiny, tiny_experiment, tmp_path, monkeypatch) -> None:
    out, log = tmp_path / "run", RunDirectory.log

    def signalled(folder, line, *file) -> None:
        log(folder, line, *file)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunDirectory, "log", signalled)
    with pytest.raises(Interrupted, match="stopped at once"):
        train(tiny_experiment(), out)
    monkeypatch.undo()
    train(tiny_experiment(), out)  # nothing was saved, so nothing is in the way


def test_a_signal_before_the_first_step_leaves_nothing(tiny, tiny_experiment, tmp_path, monkeypatch) -> None:
    read = tiny.Pairs.__getitem__

    def signalled(self, index: int):
        signal.raise_signal(signal.SIGTERM)
        return read(self, index)

    monkeypatch.setattr(tiny.Pairs, "__getitem__", signalled)
    with pytest.raises(Interrupted, match="SIGTERM: stopped before the first step; nothing was written"):
        train(tiny_experiment(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- whose folder it is


def test_a_folder_belongs_to_one_run(tiny_experiment, tmp_path) -> None:
    """Fault E9: two runs in one folder, and both reported success."""
    with RunDirectory.claimed(tmp_path / "run"), pytest.raises(InputError, match="in use"):
        train(tiny_experiment(), tmp_path / "run")
    train(tiny_experiment(), tmp_path / "run")


def test_files_of_somebody_else_are_not_touched(tiny_experiment, tmp_path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds precious\.txt; expected a new or empty folder"):
        train(tiny_experiment(), tmp_path)
    assert names(tmp_path) == ["precious.txt"]


# ------------------------------------------------------------------------------------------------ data fingerprint


def fingerprint(tiny_experiment, **options):
    part = tiny_experiment({"training": {"dataset": options}}).training_sources()[0][0].part
    return data_fingerprint(part, part.build())


def test_two_data_sets_never_have_one_fingerprint(tiny_experiment) -> None:
    """Fault P15: equal for 45 of 48 samples different."""
    seen: dict[str, tuple[int, int, int]] = {}

    @settings(deadline=None, max_examples=20)
    @given(count=st.integers(1, 70), seed=st.integers(0, 3), side=st.sampled_from([8, 12]))
    def law(count: int, seed: int, side: int) -> None:
        found = json.dumps(fingerprint(tiny_experiment, count=count, seed=seed, sizes=[side]))
        assert seen.setdefault(found, (count, seed, side)) == (count, seed, side)
        assert found == json.dumps(fingerprint(tiny_experiment, count=count, seed=seed, sizes=[side]))

    law()


def test_one_other_sample_in_the_middle_is_noticed(tiny_experiment) -> None:
    part = tiny_experiment({"training": {"dataset": {"count": 48}}}).training_sources()[0][0].part
    one, other = part.build(), part.build()
    own = type(other).__getitem__
    changed = type("Changed", (type(other),), {"__getitem__": lambda self, n: own(self, 0 if n == 7 else n)})
    other.__class__ = changed
    assert data_fingerprint(part, one) != data_fingerprint(part, other)


def test_a_large_data_set_is_not_read_whole(tiny_experiment) -> None:
    found = fingerprint(tiny_experiment, count=100_000)
    assert (found["samples"], found["keys_hashed"], found["contents_hashed"]) == (100_000, 100_000, 3)
