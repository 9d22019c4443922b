"""An experiment is parsed once; all its mistakes are told at once; variants are experiments too."""

import json

import pytest

from subjectgen.core import ConfigError
from subjectgen.runner.cli.check import check_files
from subjectgen.runner.cli.main import main
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.variants import variants

COMPARISON = {
    "toys": {
        "dataset": {"name": "held_out_toys", "toys": 2, "scenes": 1},
        "metrics": [{"name": "toy_scores", "toys": 2}],
        "variants": {"plain": {}, "early": {"schedule": {"tau1": 0.9}}},
    }
}


def test_all_mistakes_of_a_file_are_told_at_once(write, plugins) -> None:
    """Structure, names and options in one round (fault C6)."""
    path = write(
        {
            "bakbone": {},
            "branches": {"mllm": {"aggregator": {"name": "dlaa"}}},
            "schedule": {"stps": 3},
            "image": {"height": "tall"},
        }
    )
    with pytest.raises(ConfigError) as told:
        Experiment.read(path, plugins=plugins)
    said = str(told.value).splitlines()
    assert len(said) == 4
    for key, hint in (
        ("bakbone", "did you mean 'backbone'"),
        ("branches.mllm.aggregator.name", "did you mean 'dla'"),
        ("schedule.stps", "did you mean 'steps'"),
        ("image.height", "expected a whole number"),
    ):
        assert any(key in line and hint in line for line in said), (key, said)


def test_every_part_is_typed_and_knows_where_it_stands(write, plugins) -> None:
    read = Experiment.read(write({"comparisons": COMPARISON}), plugins=plugins)
    found = {part.where: part for part in read.parts}
    assert found["branches.mllm.aggregator"].config.blocks == 1
    assert found["comparisons.toys.metrics.0"].kind == "metrics"
    assert found["training.dataset"].name == "toy_pairs"
    assert "tiny.yaml:" in found["schedule"].place
    assert read.describe()["schedule"]["tau1"] == 0.7


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schedule": {"tau1": "high"}}, "schedule.tau1"),
        ({"training": {"bogus": 3}}, "training.bogus"),
        ({"schedule": {"tau1": 0.1, "tau2": 0.2}}, "tau2 = 0.2"),
    ],
)
def test_variants_are_checked(write, plugins, change: dict, expected: str) -> None:
    """They were accepted, and failed after minutes (fault O3)."""
    comparison = {"toys": {**COMPARISON["toys"], "variants": {"plain": {}, "odd": change}}}
    read = Experiment.read(write({"comparisons": comparison}), plugins=plugins)
    with pytest.raises(ConfigError, match=r"variants\.odd") as told:
        check_files(read)
    assert expected in str(told.value)


def test_an_inherited_comparison_can_be_removed(write, plugins, tmp_path) -> None:
    write({"comparisons": COMPARISON})
    child = tmp_path / "child.yaml"
    child.write_text("extends: tiny.yaml\ncomparisons: {toys: null}\n")
    assert Experiment.read(child, plugins=plugins).settings.shown() == {}


def test_variants_differ_in_what_they_say(write, plugins) -> None:
    read = Experiment.read(write({"comparisons": COMPARISON}), plugins=plugins)
    found = variants(read, "toys")
    assert found["plain"].settings.schedule["tau1"] == 0.7
    assert found["early"].settings.schedule["tau1"] == 0.9


@pytest.mark.parametrize("stages", [{}, {"late": {"embedded": 1.0}}])
def test_guidance_that_the_backbone_has_no_input_for_is_found_by_check(write, plugins, stages: dict) -> None:
    """It was found after encoding (fault P16)."""
    guidance = {"stages": stages} if stages else {"embedded": 2.5}
    read = Experiment.read(write({"schedule": {"guidance": guidance}}), plugins=plugins)
    with pytest.raises(ConfigError, match=r"schedule\.guidance\.embedded.*no guidance input, expected null"):
        build_system(read)


def test_check_compares_trained_weights_with_the_experiment(write, plugins, system, tmp_path) -> None:
    """Facts in files are cheap to compare (fault C6)."""
    from subjectgen.core import CheckpointError
    from subjectgen.runner.system.trained import save_trained

    save_trained(system(), tmp_path / "trained")
    changes = {"branches": {"mllm": {"aggregator": {"residual": True}}}, "trained": str(tmp_path / "trained")}
    with pytest.raises((ConfigError, CheckpointError), match=r"aggregator\.residual: false; the experiment says true"):
        check_files(Experiment.read(write(changes), plugins=plugins))


@pytest.mark.parametrize(
    ("comparisons", "message"),
    [
        (
            {
                "one": {**COMPARISON["toys"], "variants": {"same": {}}},
                "two": {**COMPARISON["toys"], "variants": {"same": {}}},
            },
            "two variants are called 'same'",
        ),
        ({"one": {**COMPARISON["toys"], "metrics": []}}, "metrics"),
        ({"../one": COMPARISON["toys"]}, "comparisons"),
        ({"one": {**COMPARISON["toys"], "variants": {"../../x": {}}}}, "variants"),
        ({"one": {**COMPARISON["toys"], "metric": []}}, "metric"),
        ({"one": {**COMPARISON["toys"], "titles": {"erly": "early"}}}, r"titles: got 'erly'.*did you mean 'early'"),
        ({"strips": COMPARISON["toys"]}, "'strips' names the folder of strips"),
        (
            {"one": {**COMPARISON["toys"], "variants": {"known_pictures": {}}}},
            "'known_pictures' names what metrics give",
        ),
    ],
)
def test_mistakes_in_comparisons(write, plugins, comparisons, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Experiment.read(write({"comparisons": comparisons}), plugins=plugins)


def test_check_counts_without_building(write, capsys) -> None:
    """FLUX's 11.9 billion parameters in a moment and next to no memory."""
    changes = {
        "backbone": {"name": "flux", "checkpoint": None, "architecture": {}, "lora": {"rank": 512}},
        "schedule": {"guidance": {"embedded": 2.5}},
    }
    with pytest.raises(SystemExit, match="0"):
        main(["check", str(write(changes)), "--count", "--json"])
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert parts["backbone"]["parameters"] - parts["backbone"]["trainable"] == 11_901_408_320
    assert parts["branches.mllm.aggregator"]["trainable"] > 0
