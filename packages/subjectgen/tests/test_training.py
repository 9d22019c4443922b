"""Two phases on tiny untrained weights: what is trained, what is written, what comes back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from subjectgen.core import CheckpointError, ConfigError, InputError
from subjectgen.core.plugins import Plugins
from subjectgen.runner.assemble import System
from subjectgen.runner.cli import main
from subjectgen.runner.experiment import Experiment
from subjectgen.runner.pipeline import SubjectPipeline
from subjectgen.runner.training import Trainer, phase_schedule


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def trained(write, tmp_path):
    system = System(Experiment.read(write()), Plugins.discover())
    before = {name: value.clone() for name, value in system.backbone.state_dict().items()}
    result = Trainer(system, tmp_path / "run").train()
    return system, before, result


def test_only_adapter_and_aggregator_are_trained(trained) -> None:
    system, before, _ = trained
    after = system.backbone.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert all(not p.requires_grad for b in system.branches.values() for p in b.encoder.parameters())


def test_a_run_directory_describes_itself(trained) -> None:
    _, _, result = trained
    names = {path.name for path in result.folder.iterdir()}
    expected = {"experiment.yaml", "run.json", "metrics.jsonl", "fingerprint.json", "lora.safetensors"}
    assert names == expected | {"branches.mllm.aggregator.safetensors"}
    facts = json.loads((result.folder / "run.json").read_text())
    assert "subjectgen-aggregators" in facts["plugins"]
    assert [dataset["samples"] for dataset in facts["datasets"]] == [8]
    assert facts["parts"]["backbone"]["trainable"] > 0
    log = read_log(result.folder)
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert set(log[0]["loss_by_stage"]) == {"all"}
    assert set(log[-1]["loss_by_stage"]) & {"early", "middle", "late"}


def test_the_folder_gives_the_same_images_as_the_trained_system(trained, toys) -> None:
    system, _, result = trained
    for part in system.trained_modules():
        part.eval()
    loaded = SubjectPipeline.from_pretrained(result.folder, device="cpu")
    seeds = [1, 2]
    one, other = (p.generate(toys[:2], seeds).tensors for p in (SubjectPipeline(system), loaded))
    torch.testing.assert_close(one, other)


def test_the_same_seed_gives_the_same_losses(write, tmp_path) -> None:
    losses = []
    for number in range(2):
        system = System(Experiment.read(write()), Plugins.discover())
        result = Trainer(system, tmp_path / f"run{number}").train()
        losses.append([line["loss"] for line in read_log(result.folder)])
    assert losses[0] == losses[1]


def test_a_phase_with_fewer_branches_lets_them_speak_at_every_timestep(system) -> None:
    built = system()
    first, second = built.experiment.settings.training.phases
    for t in (0.0, 0.4, 0.7, 1.0):
        assert phase_schedule(built, first).active(t).names == {"mllm"}
        assert phase_schedule(built, second).active(t) == built.schedule.active(t)


def test_training_can_learn(write, tmp_path) -> None:
    """Over-fit one pair: the loss at the end is well below that at the start."""
    changes = {
        "training": {
            "dataset": {"name": "toy_pairs", "toys": 1, "views": 2},
            "phases": [{"branches": ["mllm"], "steps": 60}],
            "batch_size": 1,
            "learning_rate": 3e-3,
            "log_every": 15,
        },
        "schedule": {"dropout": {"table": []}},
        "backbone": {"lora": None, "full_training": True},
    }
    system = System(Experiment.read(write(changes)), Plugins.discover())
    log = read_log(Trainer(system, tmp_path / "run").train().folder)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_an_existing_run_is_not_overwritten(write, tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "precious.txt").write_text("mine")
    system = System(Experiment.read(write()), Plugins.discover())
    with pytest.raises(InputError, match="not empty"):
        Trainer(system, folder)


def test_nothing_to_train_is_said(write, tmp_path) -> None:
    path = write({"backbone": {"lora": None}})
    tree = yaml.safe_load(path.read_text())
    del tree["branches"]["mllm"]
    tree["training"]["phases"] = [{"steps": 1}]
    tree["schedule"] = {"name": "always_on", "steps": 2}
    path.write_text(yaml.safe_dump(tree))
    system = System(Experiment.read(path), Plugins.discover())
    with pytest.raises(ConfigError, match="nothing to train"):
        Trainer(system, tmp_path / "run").train()
    assert not (tmp_path / "run").exists()


def test_training_without_a_dataset_is_said_before_any_part_is_loaded(write, tmp_path, capsys) -> None:
    path = write({"backbone": {"checkpoint": str(tmp_path / "nowhere")}})
    tree = yaml.safe_load(path.read_text())
    del tree["training"]["dataset"]
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(path), "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "training.dataset: missing, and training.phases.0 names none" in capsys.readouterr().err


def test_losses_are_counted_in_the_stage_of_their_own_timestep(write, tmp_path, monkeypatch) -> None:
    """Rows of several stages share a group when the same branches are present; their losses do not."""
    path = write({"training": {"phases": [{"steps": 1}]}, "schedule": {"inactive": "zero", "dropout": {"table": []}}})
    system = System(Experiment.read(path), Plugins.discover())
    times = torch.tensor([0.9, 0.5, 0.5, 0.1], dtype=torch.float64)
    monkeypatch.setattr(system.schedule, "sample_timesteps", lambda count, **_: times)
    trainer = Trainer(system, tmp_path / "run")
    optimizer = torch.optim.SGD(system.trainable().values(), lr=0.0)
    outcomes = trainer._step(system.schedule, [0, 1, 2, 3], list(system.trainable().values()), optimizer)
    assert [stage for stage, _ in outcomes] == ["early", "middle", "middle", "late"]


def test_an_aggregator_alone_can_be_trained_though_it_is_silent_late(write, tmp_path) -> None:
    path = write({"backbone": {"lora": None}, "training": {"phases": [{"steps": 4}]}})
    system = System(Experiment.read(path), Plugins.discover())
    before = {name: value.detach().clone() for name, value in system.trainable().items()}
    Trainer(system, tmp_path / "run").train()
    assert any(not torch.equal(before[name], value) for name, value in system.trainable().items())


def test_two_trainers_with_other_precision_in_one_process(write, tmp_path) -> None:
    for precision in ("no", "bf16"):
        path = write({"training": {"mixed_precision": precision, "phases": [{"steps": 1}]}})
        Trainer(System(Experiment.read(path), Plugins.discover()), tmp_path / precision).train()


@pytest.mark.parametrize("name", ["lora.safetensors", "branches.mllm.aggregator.safetensors"])
@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_harmed_weights_are_refused(trained, name: str, harm: str) -> None:
    _, _, result = trained
    path = result.folder / name
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        SubjectPipeline.from_pretrained(result.folder, device="cpu")


def test_weights_of_another_aggregator_are_refused(trained) -> None:
    _, _, result = trained
    path = result.folder / "experiment.yaml"
    path.write_text(path.read_text().replace("name: dla", "name: last_layer"))
    with pytest.raises(CheckpointError, match="another"):
        SubjectPipeline.from_pretrained(result.folder, device="cpu")
