"""Strips: one setting, value by value, through the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from subjectgen.core import ConfigError
from subjectgen.runner.cli.check import check_files
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.variants import strip

pytestmark = pytest.mark.filterwarnings("ignore:.*random")
COMPARISON = {
    "dataset": {"name": "held_out_toys", "toys": 2, "scenes": 2},
    "metrics": [{"name": "toy_scores", "toys": 2}],
    "sensitivity": False,
    "titles": {"both": "both, always on"},
    "variants": {"both": {"schedule": {"tau1": 1.1, "tau2": 0.0}}, "three_stage": {}},
}
STRIP = {
    "comparison": "toys",
    "samples": [3, 0],
    "label": "tau1 = {value}",
    "values": {"0.45": {"schedule": {"tau1": 0.45}}, "0.70": {}, "lost": {"trained": "./nowhere"}},
}


def settings(**changes: object) -> dict:
    tree = {"comparisons": {"toys": COMPARISON}, "strips": {"tau": {**STRIP, **changes}}}
    return {**tree, "schedule": {"steps": 2}, "image": {"height": 32, "width": 48}}


@pytest.fixture
def demo(run, write, tmp_path):
    """Run ``demo``; returns its code, what it said, and its folder."""

    def demo(*options: object, **changes: object) -> tuple[int, str, Path]:
        code, out, err = run("demo", write(settings(**changes)), "--out", tmp_path / "out", "--device", "cpu", *options)
        return code, out + err, tmp_path / "out"

    return demo


def test_every_value_of_every_sample_by_the_same_seed(demo) -> None:
    code, said, out = demo()
    assert code == 1, "one value has no weights"
    assert "tau lost: failed: " in said
    written = json.loads((out / "strips" / "tau" / "strip.json").read_text())
    assert [one["label"] for one in written["values"]] == ["tau1 = 0.45", "tau1 = 0.70", "tau1 = lost"]
    assert "nowhere" in written["values"][2]["failed"]
    assert [sample["seed"] for sample in written["samples"]] == [3, 0]
    pictures = {
        one["value"]: [out / "strips" / "tau" / name for name in one.get("images", [])] for one in written["values"]
    }
    for number, sample in enumerate(written["samples"]):
        assert all((out / "strips" / "tau" / name).is_file() for name in sample["references"])
        (plain,) = (out / "toys" / "three_stage" / "images").glob(f"*-seed{sample['seed']}.png")
        assert pictures["0.70"][number].name == plain.name
        with (
            Image.open(plain) as one,
            Image.open(pictures["0.70"][number]) as two,
            Image.open(pictures["0.45"][number]) as other,
        ):
            assert max(end for _, end in ImageChops.difference(one, two).getextrema()) <= 1, (
                "another batch, one rounding"
            )
            assert ImageChops.difference(one, other).getbbox()


def test_the_page_and_the_sheet_show_it(demo) -> None:
    demo()
    code, _, out = demo("--set", "strips.tau=null")
    assert code == 0
    assert "tau1 = 0.45" not in (out / "index.html").read_text()
    with Image.open(out / "sheet.png") as sheet:
        bare = sheet.height
    _, _, out = demo()
    page = (out / "index.html").read_text()
    assert page.count("<figcaption>tau1 = 0.45</figcaption>") == 2
    assert page.index("both, always on") < page.index("tau1 = 0.45") < page.index("<h2>Scores</h2>")
    assert "tau1 = lost failed: " in page
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.height >= bare + 2 * 192, "two samples, each beside its reference at twice a picture's size"


def test_a_second_run_makes_nothing_anew(demo) -> None:
    _, said, out = demo()
    assert "tau 0.45: 1 batch" in said
    images = sorted((out / "strips" / "tau").glob("*/images/*.png"))
    assert len(images) == 4
    before = [path.stat().st_mtime_ns for path in images]
    images[0].unlink()
    _, said, _ = demo()
    assert ("tau 0.70: 1 batch" in said, "tau 0.45: 1 batch" in said) == (False, True)
    assert [path.stat().st_mtime_ns for path in images[1:]] == before[1:]
    _, said, _ = demo("--set", "schedule.steps=3")
    assert "tau 0.45: failed: " in said
    assert "holds images of other settings (parts.schedule.steps: 2 -> 3)" in said


def test_what_a_comparison_changes_its_strips_change_too(write, plugins) -> None:
    tree = settings(values={"0.9": {"schedule": {"tau1": 0.9}}})
    tree["comparisons"]["toys"] = {**COMPARISON, "changes": {"image": {"width": 64}}}
    changed = strip(Experiment.read(write(tree), plugins=plugins), "tau")["0.9"].settings
    assert (changed.image.width, changed.schedule["tau1"], changed.schedule["tau2"]) == (64, 0.9, 0.4)


def test_a_comparison_that_is_removed_takes_its_strips_along(write, plugins, tmp_path) -> None:
    write(settings())
    child = tmp_path / "child.yaml"
    child.write_text("extends: tiny.yaml\ncomparisons: {toys: null}\n")
    read = Experiment.read(child, plugins=plugins)
    assert read.settings.shown_strips() == {}
    check_files(read)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comparison": "toyz"}, r"strips\.tau\.comparison: got 'toyz'.*did you mean 'toys'"),
        ({"label": "tau"}, r"label: got 'tau'; expected a text with \{value\}"),
        ({"samples": [0, 1, 0]}, r"samples: got \[0, 1, 0\]; expected each number once"),
        ({"samples": [-1]}, r"samples\.0"),
        ({"samples": []}, "samples"),
        ({"values": {}}, "values"),
        ({"values": {"../x": {}}}, "values"),
        ({"sample": [0]}, r"sample: unknown key; did you mean 'samples'"),
    ],
)
def test_mistakes_in_strips(write, plugins, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Experiment.read(write(settings(**change)), plugins=plugins)


def test_mistakes_in_values_are_told_before_anything_is_made(demo) -> None:
    values = {"1.1": {"schedule": {"tau1": "high"}}, "0.9": {"schedul": {}}}
    code, said, out = demo(values=values)
    assert (code, out.exists()) == (2, False)
    assert "strips.tau.values.1.1: " in said
    assert "schedule.tau1: got 'high'" in said
    assert "strips.tau.values.0.9: " in said
    assert "did you mean 'schedule'" in said


def test_mistakes_in_the_last_comparison_are_told_before_the_first_runs(run, write, tmp_path) -> None:
    odd = {**COMPARISON, "titles": {}, "variants": {"odd": {"schedule": {"tau1": "high"}}}}
    tree = {**settings(), "comparisons": {"toys": COMPARISON, "zoo": odd}, "strips": {}}
    code, _, err = run("demo", write(tree), "--out", tmp_path / "out", "--device", "cpu")
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert "comparisons.zoo.variants.odd" in err


def test_a_sample_that_there_is_not(demo) -> None:
    code, said, out = demo(samples=[1, 4])
    assert (code, (out / "toys").exists()) == (2, False)
    assert "strips.tau.samples: got 4; expected numbers of samples of comparison 'toys', 0 to 3" in said
