"""Comparisons: images as they come, rows per image, a variant that fails costs no other one anything."""

import json

import pytest
import torch

from subjectgen.core import InputError
from subjectgen.runner.evaluation.comparison import COMPARISON, compare
from subjectgen.runner.evaluation.image_store import ImageStore
from subjectgen.runner.evaluation.progress import Progress
from subjectgen.runner.evaluation.rows import FILE, ScoreRow, append, read
from subjectgen.runner.evaluation.sensitivity import sensitivity
from subjectgen.runner.evaluation.systems import Systems
from subjectgen.runner.evaluation.wording import line
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.trained import save_trained

pytestmark = pytest.mark.filterwarnings("ignore:.*random")
METRIC = {"name": "toy_scores", "toys": 4}
TOYS = {"dataset": {"name": "held_out_toys", "toys": 4, "scenes": 1}, "metrics": [METRIC], "batch_size": 3}


@pytest.fixture
def run(write, plugins, tmp_path):
    """Run a comparison of four toys; returns what it gives and what was said."""

    def run(variants: dict, **changes: object):
        comparison = {**TOYS, "sensitivity": False, "variants": variants, **changes}
        read_ = Experiment.read(write({"comparisons": {"toys": comparison}, "schedule": {"steps": 2}}), plugins=plugins)
        said: list[str] = []
        steps: list[str] = []
        progress = Progress(say=said.append, on_step=lambda variant, left, step: steps.append(variant))
        found = compare(read_, "toys", tmp_path / "toys", systems=Systems("cpu"), progress=progress)
        return found, said, steps

    return run


def test_images_rows_and_scores_lie_in_the_folder(run, tmp_path) -> None:
    found, said, _ = run({"plain": {}, "early": {"schedule": {"tau1": 0.9}}})
    for variant in ("plain", "early"):
        rows = read(tmp_path / "toys" / variant)
        assert len(rows) == 4
        assert all((tmp_path / "toys" / variant / row.image).is_file() for row in rows)
        assert all((tmp_path / "toys" / name).is_file() for row in rows for name in row.references)
        score = found.variants[variant]["scene_accuracy"]
        assert (score["n"], score["subjects"]) == (4, 4)
        assert score["mean"] == pytest.approx(sum(row.scores["scene_accuracy"] for row in rows) / 4)
    written = json.loads((tmp_path / "toys" / COMPARISON).read_text())
    assert written["known_pictures"]["scene_accuracy"]["mean"] > 0.5
    assert written["variants"] == found.variants
    assert [text.partition(" ")[0] for text in said] == ["early:", "plain:"]


def test_a_variant_that_fails_costs_no_other_one(run, tmp_path) -> None:
    """Everything was lost after minutes (fault O3)."""
    found, said, _ = run({"first": {}, "lost": {"trained": "./nowhere"}, "last": {"schedule": {"tau1": 0.9}}})
    assert "nowhere" in found.variants["lost"]["failed"]
    assert {"first", "last"} == {name for name, one in found.variants.items() if "scene_accuracy" in one}
    assert any(text.startswith("lost: failed: ") for text in said)


def test_it_goes_on_where_it_was(run, tmp_path) -> None:
    _, _, steps = run({"plain": {}})
    assert len(steps) == 2 * 2  # two batches of two steps
    images = sorted((tmp_path / "toys" / "plain" / "images").iterdir())
    kept = images[0].stat().st_mtime_ns
    images[1].unlink()
    found, _, steps = run({"plain": {}})
    assert len(steps) == 2  # one batch
    assert images[0].stat().st_mtime_ns == kept
    assert found.variants["plain"]["scene_accuracy"]["n"] == 4
    _, _, steps = run({"plain": {}})
    assert steps == []


def test_images_of_other_settings_are_not_mixed(run) -> None:
    run({"plain": {}})
    found, _, _ = run({"plain": {"schedule": {"tau1": 0.9}}})
    assert "images of other settings (parts.schedule.tau1: 0.7 -> 0.9)" in found.variants["plain"]["failed"]


def test_trained_folders_can_be_compared(run, system, tmp_path) -> None:
    for name in ("one", "two"):
        built = system({"schedule": {"steps": 2}})
        with torch.no_grad():
            for parameter in built.trainable().values():
                parameter.add_(0.05 if name == "one" else -0.05)
        save_trained(built, tmp_path / name)
    found, _, _ = run({name: {"trained": str(tmp_path / name)} for name in ("one", "two")})
    assert not any("failed" in one for one in found.variants.values())
    files = [sorted((tmp_path / "toys" / name / "images").iterdir())[0].read_bytes() for name in ("one", "two")]
    assert files[0] != files[1]


def test_two_metrics_with_one_name_are_refused_before_anything_is_made(run, tmp_path) -> None:
    with pytest.raises(InputError, match=r"comparisons\.toys\.metrics\.1: an earlier metric gives"):
        run({"plain": {}}, metrics=[METRIC, {**METRIC, "seed": 3}])
    assert not (tmp_path / "toys" / "plain").exists()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_sensitivity_heeds_the_batch_size_and_does_not_depend_on_it(system, toys, size: int) -> None:
    """It ran 16 rows where 2 were asked for (fault P8)."""
    built = system({"schedule": {"steps": 2}})
    rows: list[int] = []
    hook = lambda _, arguments, given: rows.append(len(given["hidden_states"]))  # noqa: E731
    built.backbone.transformer.register_forward_pre_hook(hook, with_kwargs=True)
    found = sensitivity(built, toys, [0, 1, 2, 3], batch_size=size)
    assert max(rows) <= size
    expected = sensitivity(built, toys, [0, 1, 2, 3], batch_size=4)
    assert list(found) == ["sensitivity_mllm", "sensitivity_vae", "seed_change"]
    assert found == {name: pytest.approx(values, abs=1e-4) for name, values in expected.items()}
    assert all(len(values) == 4 and min(values) > 0 for values in found.values())


def test_a_row_that_a_kill_cut_off_is_measured_again(tmp_path) -> None:
    row = ScoreRow(key="a", seed=0, prompt="x", image="a.png", metrics="m", scores={"s": 1.0}, references=[])
    append(tmp_path, [row, row])
    whole = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(whole[:-20])
    assert read(tmp_path) == [row]
    (tmp_path / FILE).write_text(whole.replace('"key"', "key", 1))
    with pytest.raises(InputError, match=r"rows\.jsonl:1: damaged"):
        read(tmp_path)


def test_a_damaged_image_is_named(tmp_path) -> None:
    store = ImageStore(tmp_path, {"a": 1})
    store.write("toy", 3, torch.rand(3, 8, 8))
    image = store.read("toy", 3)
    store.write("toy", 3, image)
    assert torch.equal(store.read("toy", 3), image)  # eight bits, once and for all
    path = store.path("toy", 3)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"toy-seed3\.png: cannot be decoded"):
        store.read("toy", 3)


def test_what_branches_change_are_scores_like_others(run, tmp_path) -> None:
    """Two scenes of each toy: four images, two subjects."""
    dataset = {"name": "held_out_toys", "toys": 2, "scenes": 2}
    changes = {"dataset": dataset, "metrics": [{**METRIC, "toys": 2}], "sensitivity": True}
    found, said, steps = run({"plain": {}, "early_only": {"schedule": {"tau1": 0.0, "tau2": 0.0}}}, **changes)
    scores = found.variants["early_only"]
    assert list(scores)[-3:] == ["sensitivity_mllm", "sensitivity_vae", "seed_change"]
    assert scores["sensitivity_vae"]["mean"] == 0, "a branch that is silent changes nothing"
    assert scores["sensitivity_mllm"]["mean"] > 0
    assert (scores["seed_change"]["n"], scores["seed_change"]["subjects"]) == (4, 2)
    assert scores["seed_change"]["low"] < scores["seed_change"]["mean"] < scores["seed_change"]["high"]
    assert steps
    again, _, steps = run({"plain": {}, "early_only": {"schedule": {"tau1": 0.0, "tau2": 0.0}}}, **changes)
    assert again.variants == found.variants
    assert not steps
    assert any("sensitivity mllm 0." in text for text in said)


def test_a_headline_that_is_not_there_loses_nothing() -> None:
    score = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 4, "missing": 0, "unit": "share", "better": "higher"}
    distance = {"median": 12.0, "low": None, "high": None, "n": 4, "missing": 0, "unit": "degrees", "better": "none"}
    found, known = {"scene_accuracy": score, "azimuth_difference": distance}, {"scene_accuracy": {"mean": 0.99}}
    said = line("plain", found, known, ["scene_acuracy", "scene_accuracy", "azimuth_difference"])
    assert "no score 'scene_acuracy'; did you mean 'scene_accuracy'?" in said
    assert "scene_accuracy 50.0% [25.0%, 75.0%] (on known pictures 99.0%)" in said
    assert "azimuth_difference 12.0 degrees" in said  # it was printed as percent
