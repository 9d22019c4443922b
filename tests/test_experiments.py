"""Every experiment that ships is valid, and those of the paper say what the paper says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from subjectgen.core import Schedule
from subjectgen.runner.cli.main import main
from subjectgen.runner.system.experiment import Experiment

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").rglob("*.yaml"))
SQUEEZE = ROOT / "experiments" / "squeeze"


def name(file: Path) -> str:
    return str(file.relative_to(ROOT / "experiments"))


def checked(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `subjectgen check --json` prints; it exits without an error."""
    with pytest.raises(SystemExit) as ended:
        main(["check", str(file), "--json"])
    out = capsys.readouterr()
    assert ended.value.code == 0, out.err
    return json.loads(out.out)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_experiment_passes_check(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = checked(file, capsys)
    assert tree["branches"]
    assert tree["backbone"]["name"]


def test_a_mistake_in_an_experiment_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(f"extends: {SQUEEZE / 'full.yaml'}\nschedule: {{tau3: 0.5}}\n")
    with pytest.raises(SystemExit) as ended:
        main(["check", str(file)])
    assert ended.value.code == 2
    assert "tau3" in capsys.readouterr().err


def test_every_experiment_is_in_the_readme() -> None:
    readme = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    missing = [name(file) for file in FILES if file.parent.name != "base" and f"({name(file)})" not in readme]
    assert missing == []


def test_the_full_model_is_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    tree = checked(SQUEEZE / "full.yaml", capsys)
    mllm, vae, schedule, training = *tree["branches"].values(), tree["schedule"], tree["training"]
    assert list(tree["branches"]) == ["mllm", "vae"]
    assert (mllm["encoder"]["checkpoint"], mllm["aggregator"]["name"]) == ("OpenGVLab/InternVL3-8B-hf", "dla")
    assert tree["autoencoder"] == vae["encoder"]
    lora = tree["backbone"]["lora"]
    assert (lora["rank"], lora["alpha"], lora["targets"]) == (512, None, "attention")
    assert (schedule["tau1"], schedule["tau2"], schedule["grid"], schedule["steps"]) == (0.95, 0.85, "cosine", 25)
    assert (schedule["guidance"]["embedded"], schedule["guidance"]["true_cfg"]) == (2.5, 1.0)
    assert [(phase["branches"], phase["steps"]) for phase in training["phases"]] == [
        (["mllm"], 25_000),
        (["mllm", "vae"], 10_000),
    ]
    assert (training["batch_size"], training["learning_rate"], training["lr_schedule"]) == (128, 1e-5, "constant")


@pytest.mark.parametrize(
    ("file", "stages"),
    [("full", {"early", "middle", "late"}), ("mllm_only", {"early"}), ("vae_only", {"late"})],
)
def test_who_speaks_when(file: str, stages: set[str]) -> None:
    points, schedule = sampled(SQUEEZE / f"{file}.yaml")
    assert {schedule.stage(t) for t in points} == stages
    speaking = {name for t in points for name in schedule.active(t).names}
    expected = {"full": {"mllm", "vae"}, "mllm_only": {"mllm"}, "vae_only": {"vae"}}[file]
    assert speaking == expected


def test_the_last_row_of_table_c_lets_the_mllm_speak_in_the_first_step() -> None:
    """So the file says of the thresholds that it names, and so the toybox's comparison has it."""
    changes = ["schedule.tau1=1.0", "schedule.tau2=1.0"]
    points, schedule = sampled(SQUEEZE / "vae_only.yaml", changes)
    assert [set(schedule.active(t).names) for t in points] == [{"mllm"}, *[{"vae"}] * (len(points) - 1)]
    toys = Experiment.read(ROOT / "experiments" / "base" / "toybox.yaml").settings.shown()["toys"]
    assert toys.variants["vae_only"] == {"schedule": {"tau1": 1.0, "tau2": 1.0}}


def sampled(file: Path, changes: Sequence[str] = ()) -> tuple[list[float], Schedule]:
    """Where velocities are taken, and the schedule."""
    read = Experiment.read(file, changes)
    schedule = read.parts.schedule.build(branches=tuple(read.settings.branches))
    return [float(t) for t in schedule.timesteps()[:-1]], schedule


def test_every_mllm_of_table_d_has_its_file_and_nothing_else_differs() -> None:
    checkpoints = {
        "mllm_internvl3_8b": "OpenGVLab/InternVL3-8B-hf",
        "mllm_internvl3_2b": "OpenGVLab/InternVL3-2B-hf",
        "mllm_qwen2_5_vl_3b": "Qwen/Qwen2.5-VL-3B-Instruct",
        "mllm_qwen2_5_vl_7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    }
    assert {file.stem for file in SQUEEZE.glob("mllm_*b.yaml")} == set(checkpoints)
    full = Experiment.read(SQUEEZE / "full.yaml").settings.model_dump()
    for stem, checkpoint in checkpoints.items():
        values = Experiment.read(SQUEEZE / f"{stem}.yaml").settings.model_dump()
        encoder = values["branches"]["mllm"]["encoder"]
        assert encoder["checkpoint"] == checkpoint
        assert encoder["dtype"] == "bfloat16"
        values["branches"]["mllm"]["encoder"] = full["branches"]["mllm"]["encoder"]
        assert values == full
