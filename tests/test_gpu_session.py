"""The GPU session's code on the CPU, at the toybox's size: it must work when a GPU is there."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["--device", "cpu", "--size", "small", "--images", "64"]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """``tests/gpu/run.py`` as a module; its folder is importable meanwhile."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    yield importlib.import_module("run")
    for name in [name for name in sys.modules if name == "run" or name.partition(".")[0] == "parts"]:
        del sys.modules[name]


def read(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def test_parts_run_and_say_what_was_run(session: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "gpu"
    code = session.main([*SMALL, "--only", "peak,denoise,encode,profile", "--seed", "3", "--out", str(out)])
    records = read(out)
    assert code == 0
    assert {name: record["status"] for name, record in records.items()} == dict.fromkeys(records, "done")
    assert set(records) == {"peak", "denoise", "encode", "profile"}
    for record in records.values():
        assert record["command"].startswith(f"python tests/gpu/run.py --only {record['part']} ")
        assert str(tmp_path) not in json.dumps(record)
        assert record["seed"] == 3
        assert record["machine"]["versions"]["torch"]
    steps = {row["step"]: row["tokens"] for row in records["denoise"]["results"]["steps"]}
    assert steps == {
        "64 px, early": "24/16/0",
        "64 px, middle": "24/16/16",
        "64 px, late": "0/16/16",
        "64 px, text to image": "32/16/0",
    }
    assert (out / "profile.txt").read_text().startswith("64 px, middle")
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name}: done" in page for name in records)


def test_what_is_counted_is_what_the_plan_counts(session: ModuleType) -> None:
    """The sampler's own streams, added up, against ``subjectgen plan``."""
    import torch
    from parts.build import denoiser, plugins
    from parts.counting import image_flops, steps_of
    from parts.denoise import planned
    from parts.session import SMALL as SIZES, Session
    from parts.stand_ins import request

    from subjectgen.runner.planning.estimate import Question, estimate
    from subjectgen.runner.planning.formulas import MAP, flux_modulation
    from subjectgen.runner.system.experiment import Experiment

    run = Session(out=Path(), sizes=SIZES, device=torch.device("cpu"), seconds=60)
    made = denoiser(run)
    sizes = made.backbone.transformer.config
    guidance = {"true_cfg": 2.5, "negative": "no_references"}
    sampled = planned(run, made, request(SIZES.prompt, SIZES.reference), 64, guidance=guidance)
    changes = ["schedule.guidance={true_cfg: 2.5, negative: no_references}", f"schedule.steps={SIZES.steps}"]
    experiment = Experiment.read(ROOT / SIZES.experiment, [*changes, "backbone.lora=null"], plugins())
    plan = estimate(experiment, Question(prompt_tokens=SIZES.prompt, reference_size=SIZES.reference))
    looked_up = MAP * flux_modulation(sizes) * sum(len(step.streams) * (1 + step.joined) for step in steps_of(sampled))
    assert image_flops(sizes, sampled, cached=False) == plan["image"]["denoising_flops"] - looked_up


def test_a_part_that_fails_does_not_stop_the_others(
    session: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["--set", "backbone.rank=3"]  # no such option: whoever builds the backbone fails
    code = session.main([*SMALL, *changes, "--only", "denoise,peak", "--out", str(tmp_path / "gpu")])
    records = read(tmp_path / "gpu")
    assert code == 1
    assert records["denoise"]["status"] == "failed"
    assert "rank" in records["denoise"]["reason"]
    assert records["peak"]["status"] == "done"


def test_without_a_gpu_it_says_so(session: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert session.main(["--out", str(tmp_path / "gpu")]) == 2
    assert "torch.cuda.is_available() is false" in capsys.readouterr().err
    assert not (tmp_path / "gpu").exists()


def test_time_that_is_spent_leaves_rows_out(session: ModuleType, tmp_path: Path) -> None:
    assert session.main([*SMALL, "--only", "denoise", "--seconds", "0", "--out", str(tmp_path / "gpu")]) == 0
    results = read(tmp_path / "gpu")["denoise"]["results"]
    assert results["steps"] == []
    assert len(results["left_out"]) == 4
