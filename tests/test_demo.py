"""The demo on the shipped weights, cut down to a few toys: files, keys, and bars the full demo passes with room."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from subjectgen.runner import demo
from subjectgen.runner.contact_sheet import CELL
from subjectgen.runner.references import ReferenceFiles

ROOT = Path(__file__).parents[1]
EXPERIMENT = str(ROOT / "experiments" / "toybox" / "demo.yaml")
KEYS = {"scene_accuracy", "scene_judge", "shape_accuracy", "shape_judge", "identity_top1", "identity_judge"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    fewer = ["comparisons.toys.dataset.toys=12", "comparisons.toys.dataset.scenes=1"]
    demo.run_demo(folder, experiment=EXPERIMENT, overrides=fewer, device="cpu")
    return folder


def test_scores_have_every_figure_for_every_schedule(out: Path) -> None:
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores) == {"mllm_only", "vae_only", "three_stage"}
    for score in scores.values():
        assert score.keys() >= KEYS
        assert set(score["sensitivity"]) == {"mllm", "vae"}


def test_the_sheet_and_the_page(out: Path) -> None:
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width == 4 * CELL
    page = (out / "index.html").read_text()
    assert "sheet.png" in page
    assert "identity_judge" in page


def test_each_branch_matters_and_a_silent_one_does_not(out: Path) -> None:
    scores = json.loads((out / "scores.json").read_text())
    assert scores["mllm_only"]["sensitivity"]["vae"] == 0
    assert scores["mllm_only"]["sensitivity"]["mllm"] > 0.02
    assert scores["vae_only"]["sensitivity"]["vae"] > 0.02
    assert min(scores["three_stage"]["sensitivity"].values()) > 0.01


def test_the_trained_system_works(out: Path) -> None:
    score = json.loads((out / "scores.json").read_text())["three_stage"]
    assert score["scene_judge"] >= 0.97
    assert score["identity_judge"] >= 0.9
    assert score["scene_accuracy"] >= 0.8
    assert score["shape_accuracy"] >= 0.5
    assert score["identity_top1"] >= 0.4, "chance is 1 in 12"


def test_your_own_picture(tmp_path: Path) -> None:
    picture = tmp_path / "mine.jpg"
    Image.effect_noise((120, 80), 60).convert("RGB").save(picture)
    folder = tmp_path / "out"
    demo.run_demo(
        folder,
        references=ReferenceFiles(pictures=[picture]),
        prompts=["the toy at night"],
        experiment=EXPERIMENT,
        device="cpu",
    )
    names = {path.name for path in (folder / "own").iterdir()}
    assert {"sheet.png", "three_stage-0.png", "three_stage-0.json"} <= names
