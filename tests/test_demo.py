"""The demo on the shipped weights, cut down to a few toys: files, keys, and bars the full demo passes with room."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from subjectgen.runner.cli.main import main

ROOT = Path(__file__).parents[1]
EXPERIMENT = str(ROOT / "experiments" / "toybox" / "demo.yaml")
VARIANTS = {"mllm_only", "vae_only", "three_stage"}
MEASURED = {"scene_accuracy", "shape_accuracy", "identity_top1"}


def run_demo(out: Path, *options: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", EXPERIMENT, "--out", str(out), "--device", "cpu", *map(str, options)])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    run_demo(folder, "--set", "comparisons.toys.dataset.toys=12", "--set", "comparisons.toys.dataset.scenes=1")
    return folder


@pytest.fixture(scope="module")
def written(out: Path) -> dict:
    return json.loads((out / "scores.json").read_text())


@pytest.fixture(scope="module")
def scores(written: dict) -> dict:
    """By variant."""
    return {name: found for name, found in written.items() if name != "known_pictures"}


def means(found: dict) -> dict[str, float]:
    return {name: score["mean"] for name, score in found.items()}


def test_scores_have_every_figure_for_every_schedule(written: dict, scores: dict) -> None:
    assert set(scores) == VARIANTS
    assert written["known_pictures"].keys() >= MEASURED, "what the judges give to pictures whose truth is known"
    for found in scores.values():
        assert found.keys() >= MEASURED | {"sensitivity_mllm", "sensitivity_vae", "seed_change"}
        for score in found.values():
            assert list(score) == ["mean", "low", "high", "n", "subjects", "missing", "unit", "better"]
            assert score["low"] <= score["mean"] <= score["high"]
            assert score["n"] + score["missing"] == score["subjects"] == 12
        assert found["seed_change"]["mean"] > 0


def test_every_picture_has_its_row(out: Path) -> None:
    assert {path.name for path in (out / "toys").iterdir() if path.is_dir()} >= VARIANTS
    for variant in VARIANTS:
        folder = out / "toys" / variant
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        assert len(rows) == len(list((folder / "images").glob("*.png"))) == 12
        assert json.loads((folder / "settings.json").read_text())


def test_the_sheet_and_the_page(out: Path) -> None:
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 2 * 192, "a reference at twice a picture's size, and the variants beside it"
    page = (out / "index.html").read_text()
    assert all(name in page for name in (*VARIANTS, *MEASURED))
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page), "all that the page shows is inside it"
    assert page.count("data:image/") > 3 * 12
    assert all(f"<b>{title}</b>" in page for title in ("MLLM only", "VAE only", "three stages"))


def test_a_strip_over_tau_ends_where_one_branch_speaks_alone(out: Path) -> None:
    """Its last value is the MLLM alone: what the variant gives."""
    folder = out / "strips" / "tau"
    values = json.loads((folder / "strip.json").read_text())["values"]
    assert (values[0]["value"], values[-1]["value"]) == ("1.1", "0.0")
    (name,) = values[-1]["images"]
    picture, (variant,) = folder / name, (out / "toys" / "mllm_only" / "images").glob("*-seed0.png")
    with Image.open(picture) as one, Image.open(variant) as two:
        assert max(end for _, end in ImageChops.difference(one, two).getextrema()) <= 1, "another batch, one rounding"
    page = (out / "index.html").read_text()
    assert [page.index(value["label"]) for value in values] == sorted(page.index(value["label"]) for value in values)


def test_each_branch_matters_and_a_silent_one_does_not(scores: dict) -> None:
    shift = {name: means(found) for name, found in scores.items()}
    assert shift["mllm_only"]["sensitivity_vae"] == 0
    assert shift["mllm_only"]["sensitivity_mllm"] > 0.02
    assert shift["vae_only"]["sensitivity_vae"] > 0.02
    assert min(shift["three_stage"][name] for name in ("sensitivity_mllm", "sensitivity_vae")) > 0.01


def test_the_trained_system_works(written: dict) -> None:
    score, judge = means(written["three_stage"]), means(written["known_pictures"])
    assert judge["scene_accuracy"] >= 0.97
    assert judge["identity_top1"] >= 0.9
    assert score["scene_accuracy"] >= 0.8
    assert score["shape_accuracy"] >= 0.5
    assert score["identity_top1"] >= 0.4, "chance is 1 in 12"


def test_your_own_picture(tmp_path: Path) -> None:
    picture = tmp_path / "mine.jpg"
    Image.effect_noise((120, 80), 60).convert("RGB").save(picture)
    run_demo(tmp_path / "out", "--reference", picture, "--prompt", "the toy at night")
    folder = tmp_path / "out" / "own"
    assert {path.name for path in folder.iterdir()} >= {*VARIANTS, "index.html"}
    for variant in VARIANTS:
        (image,) = (folder / variant).glob("*.png")
        assert json.loads(image.with_suffix(".json").read_text())["prompt"] == "the toy at night"
