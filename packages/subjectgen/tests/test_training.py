"""Two phases on tiny untrained weights of the real parts: what is trained, what is written, what comes back."""

import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from rich.console import Console

from subjectgen.core import CheckpointError, ConfigError
from subjectgen.runner.cli.main import main
from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Request
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.system import System
from subjectgen.runner.training.run import train, train_system


class Trained(NamedTuple):
    """A system after training, its backbone's values before, and the run's folder."""

    system: System
    before: dict[str, torch.Tensor]
    folder: Path


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def quiet(system: System, out: Path) -> Path:
    return train_system(system, out, console=Console(file=io.StringIO())).folder


@pytest.fixture(scope="session")
def trained(experiment_tree, plugins, tmp_path_factory) -> Trained:
    """Trained once for all tests; none may change it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(experiment_tree))
    system = build_system(Experiment.read(folder / "tiny.yaml", plugins=plugins))
    before = {name: value.clone() for name, value in system.backbone.state_dict().items()}
    return Trained(system, before, quiet(system, folder / "run"))


def test_only_adapter_and_aggregator_are_trained(trained) -> None:
    after = trained.system.backbone.state_dict()
    changed = {name for name, value in trained.before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert all(not p.requires_grad for b in trained.system.branches.values() for p in b.encoder.parameters())


def test_a_run_holds_the_trained_parts_by_name(trained) -> None:
    names = {path.name for path in (trained.folder / "trained").iterdir()}
    assert names == {"trained.json", "lora.safetensors", "branches.mllm.aggregator.safetensors"}
    facts = json.loads((trained.folder / "run.json").read_text())
    assert "subjectgen-aggregators" in facts["plugins"]
    assert [line["step"] for line in read_log(trained.folder)] == [1, 2, 3, 4]


def test_the_folder_gives_the_same_images_as_the_trained_system(trained, toys) -> None:
    request = Request.of(toys[:2], [1, 2])
    loaded = SubjectPipeline.from_pretrained(trained.folder, device="cpu")
    one, other = (pipeline.generate(request).tensors for pipeline in (SubjectPipeline(trained.system), loaded))
    torch.testing.assert_close(list(one), list(other))


def test_the_experiment_in_the_folder_draws_with_its_own_weights(trained, toys, tmp_path, monkeypatch) -> None:
    """Fault O12: it kept the inherited ``trained``, and drew with other weights in silence; here from elsewhere."""
    monkeypatch.chdir(tmp_path)
    request = Request.of(toys[:1], [1])
    own = SubjectPipeline.from_experiment(trained.folder / "experiment.yaml", device="cpu").generate(request)
    torch.testing.assert_close(own.tensors[0], SubjectPipeline(trained.system).generate(request).tensors[0])


def test_the_same_seed_gives_the_same_losses(trained, system, tmp_path) -> None:
    torch.manual_seed(1234)  # the caller's draws change nothing
    again = read_log(quiet(system(), tmp_path / "again"))
    assert [line["loss"] for line in again] == [line["loss"] for line in read_log(trained.folder)]


def test_nothing_to_train_is_said(write, plugins, tmp_path) -> None:
    path = write({"backbone": {"lora": None}})
    tree = yaml.safe_load(path.read_text())
    del tree["branches"]["mllm"]
    tree["training"]["phases"] = [{"steps": 1}]
    tree["schedule"] = {"name": "always_on", "steps": 2}
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="nothing to train"):
        train(Experiment.read(path, plugins=plugins), tmp_path / "run")
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


def test_an_aggregator_alone_can_be_trained_though_stages_silence_it(system, tmp_path) -> None:
    phases = [{"steps": 4, "stage_masks": True}]
    built = system({"backbone": {"lora": None}, "training": {"phases": phases}})
    before = {name: value.detach().clone() for name, value in built.trainable().items()}
    quiet(built, tmp_path / "run")
    assert any(not torch.equal(before[name], value) for name, value in built.trainable().items())


def test_two_runs_of_other_precision_in_one_process(system, tmp_path) -> None:
    for precision in ("no", "bf16"):
        changes = {"training": {"mixed_precision": precision, "phases": [{"steps": 1}]}}
        assert len(read_log(quiet(system(changes), tmp_path / precision))) == 1


@pytest.mark.parametrize("name", ["lora.safetensors", "branches.mllm.aggregator.safetensors"])
@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_harmed_weights_are_refused(trained, tmp_path, name: str, harm: str) -> None:
    folder = copied(trained.folder, tmp_path)
    path = folder / "trained" / name
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        SubjectPipeline.from_pretrained(folder, device="cpu")


def test_weights_of_another_aggregator_are_refused(trained, tmp_path) -> None:
    folder = copied(trained.folder, tmp_path)
    path = folder / "experiment.yaml"
    path.write_text(path.read_text().replace("name: dla", "name: last_layer"))
    with pytest.raises(CheckpointError, match=r"trained with branches\.mllm\.aggregator\.name: dla"):
        SubjectPipeline.from_pretrained(folder, device="cpu")


def copied(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place / "copy"))
