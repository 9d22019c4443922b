"""Trained parts in and out of a folder: whole or not at all, finite, and only under options that mean the same."""

import json
import math
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from subjectgen.core import CheckpointError, InputError
from subjectgen.runner.system import trained as files
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.trained import FACTS, check_options, load_trained, save_trained


@pytest.fixture
def saved(system, tmp_path: Path) -> Path:
    """Weights that are no longer the first ones."""
    built = system()
    shift(built, 0.25)
    save_trained(built, tmp_path / "trained")
    return tmp_path / "trained"


def shift(built, by: float) -> None:
    with torch.no_grad():
        for parameter in built.trainable().values():
            parameter.add_(by)


@pytest.fixture
def load(write, plugins, saved):
    """Build the small experiment with changes, and load what was saved."""

    def load(changes: dict | None = None, folder: Path = saved):
        changes = {**(changes or {}), "trained": str(folder)}
        return load_trained(build_system(Experiment.read(write(changes), plugins=plugins)))

    return load


def test_what_was_saved_is_loaded(system, load) -> None:
    before, after = system(), load()
    shift(before, 0.25)
    for name, parameter in before.trainable().items():
        torch.testing.assert_close(after.trainable()[name], parameter, rtol=0, atol=0)


FOUND_SILENT = {
    "branches.mllm.aggregator.heads": ({"branches": {"mllm": {"aggregator": {"heads": 3}}}}, "3"),
    "branches.mllm.aggregator.residual": ({"branches": {"mllm": {"aggregator": {"residual": True}}}}, "true"),
    "backbone.reference_offset": ({"backbone": {"reference_offset": "rows"}}, '"rows"'),
    "backbone.reference_attention": ({"backbone": {"reference_attention": "isolated"}}, '"isolated"'),
    "schedule.inactive": ({"schedule": {"inactive": "zero"}}, '"zero"'),
}


@pytest.mark.parametrize("option", FOUND_SILENT)
def test_options_that_change_what_weights_mean_are_refused(load, option: str) -> None:
    """Outsiders found these loaded in silence; the pictures were others (fault D3)."""
    changes, now = FOUND_SILENT[option]
    with pytest.raises(CheckpointError) as told:
        load(changes)
    said = str(told.value)
    assert f"trained with {option}: " in said
    assert f"the experiment says {now}" in said
    assert f"--set {option}=" in said


def test_the_way_out_leads_out(load, write, plugins, saved) -> None:
    with pytest.raises(CheckpointError) as told:
        load({"schedule": {"inactive": "zero"}})
    override = str(told.value).partition("--set ")[2].partition(",")[0]
    path = write({"schedule": {"inactive": "zero"}, "trained": str(saved)})
    check_options(Experiment.read(path, [override], plugins), saved)


def test_another_component_is_refused(load) -> None:
    with pytest.raises(CheckpointError, match=r"branches\.mllm\.aggregator\.name: dla; the experiment says lap"):
        load({"branches": {"mllm": {"aggregator": {"name": "lap"}}}})


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": {"tau1": 0.9, "steps": 3}},
        {"schedule": {"guidance": {"true_cfg": 2.0}}},
        {"memory": {"dtype": "bfloat16"}},
        {"branches": {"mllm": {"aggregator": {"zero_out": {"text": "0-1"}}}}},
        {"backbone": {"gradient_checkpointing": True}},
    ],
    ids=str,
)
def test_options_that_are_free_when_generating_are_free(load, changes: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(changes).trained is not None


def test_moved_checkpoints_are_no_matter(load, checkpoints, tmp_path) -> None:
    moved = shutil.copytree(checkpoints / "transformer", tmp_path / "moved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load({"backbone": {"checkpoint": str(moved)}})


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_other_frozen_weights_are_told(load, checkpoints, tmp_path, part: str) -> None:
    """Another base transformer or autoencoder under trained parts (fault E5)."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoints / part, tmp_path / part)
    (file,) = folder.glob("*.safetensors")
    save_file({name: value + 0.1 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    for sums in folder.glob("SHA256SUMS"):
        sums.unlink()
    changes = {"backbone": {"checkpoint": str(folder)}} if part == "transformer" else None
    if changes is None:
        changes = {"autoencoder": {"checkpoint": str(folder)}}
    with pytest.warns(UserWarning, match="its frozen weights are not those"):
        load(changes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_never_written(system, saved, value: float) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    built = system()
    with torch.no_grad():
        next(iter(built.trainable().values())).view(-1)[0] = value
    with pytest.raises(CheckpointError, match=r"backbone\..*not finite"):
        save_trained(built, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.parametrize("writer", ["save_file", "write_json"])
def test_a_failure_between_two_files_leaves_the_old_ones(system, saved, monkeypatch, writer: str) -> None:
    """Adapter of one age, aggregator of another, would load without a word (fault P14)."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    built = system()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, writer, full)
    with pytest.raises(InputError, match="cannot be written: the disk is full; what was there is as it was"):
        save_trained(built, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir() if path.is_dir()] == [saved.name]


def test_a_folder_of_an_older_version_loads_and_says_so(load, saved) -> None:
    (saved / FACTS).unlink()
    with pytest.warns(UserWarning, match=r"before 0\.2"):
        assert load({"schedule": {"inactive": "zero"}}).trained == str(saved)


def test_facts_of_a_later_version_are_refused(load, saved) -> None:
    stored = json.loads((saved / FACTS).read_text())
    (saved / FACTS).write_text(json.dumps({**stored, "format": 99}))
    with pytest.raises(CheckpointError, match="pip install -U subjectgen"):
        load()


def test_a_missing_file_and_another_shape_are_named(load, saved) -> None:
    name = "branches.mllm.aggregator.safetensors"
    from safetensors.torch import load_file, save_file

    state = load_file(saved / name)
    key = next(iter(state))
    save_file({**state, key: torch.zeros(3)}, saved / name)
    with pytest.raises(CheckpointError, match=rf"{name}: {key}: got \(3,\)"):
        load()
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        load()


def test_building_starts_from_the_experiments_seed_and_leaves_the_callers(system) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two = system(), system()
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in one.trainable().items():
        assert torch.equal(parameter, two.trainable()[name])
    other = system({"seed": 1})
    assert any(not torch.equal(p, other.trainable()[n]) for n, p in one.trainable().items())


def test_a_built_system_is_in_evaluation_mode(system) -> None:
    built = system()
    modules: list[nn.Module] = [built.backbone, *built.branch_modules().values()]
    assert not any(module.training for module in modules)


def test_weights_trained_with_other_layers_are_refused(system, write, plugins, tmp_path) -> None:
    """They would fit by their shapes; the same layers in other words are the same."""

    def layers(text: str | list[int]) -> dict:
        return {"branches": {"mllm": {"aggregator": {"name": "dla", "layers": {"text": text, "image": text}}}}}

    def load(text: str | list[int], folder: Path) -> None:
        experiment = Experiment.read(write({**layers(text), "trained": str(folder)}), plugins=plugins)
        load_trained(build_system(experiment))

    save_trained(system(), tmp_path / "all")
    load("0-8", tmp_path / "all")
    save_trained(system(layers("0-3")), tmp_path / "fewer")
    load([0, 1, 2, 3], tmp_path / "fewer")
    with pytest.raises(CheckpointError, match=r"layers\.text: \[0, 1, 2, 3\]; the experiment says \[4, 5, 6, 7\]"):
        load("4-7", tmp_path / "fewer")
