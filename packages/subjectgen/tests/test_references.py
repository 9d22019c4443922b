"""What is known of a reference: masks, regions and weights, from the command line to the refusal."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from subjectgen.core import InputError
from subjectgen.runner.references import ReferenceFiles


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two pictures of 40 x 30 pixels."""
    paths = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.png"
        Image.effect_noise((40, 30), 60).convert("RGB").save(path)
        paths.append(path)
    return paths


def test_each_option_belongs_to_the_reference_at_its_place(files, tmp_path) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (40, 30), 255).save(mask)
    given = ReferenceFiles(
        pictures=files, subject_masks=[str(mask), "0,0,20,30"], regions=["", "0.5,0,1,1"], weights=[0.5]
    )
    one, two = given.placed(given.read(), (64, 128))
    assert one.subject_mask is not None
    assert two.subject_mask is not None
    assert one.region_mask is None
    assert two.region_mask is not None
    assert (one.weight, two.weight) == (0.5, 1.0)
    assert bool((one.subject_mask == 1).all())
    assert two.subject_mask.sum() == 20 * 30
    assert two.region_mask.shape == (1, 64, 128)
    assert two.region_mask[:, :, 64:].sum() == two.region_mask.sum() == 64 * 64


@pytest.mark.parametrize("option", ["subject_masks", "regions", "weights"])
def test_more_of_anything_than_references_is_refused(files, option) -> None:
    values = [1.0, 2.0, 3.0] if option == "weights" else ["0,0,1,1"] * 3
    with pytest.raises(InputError, match=r"got 3, but there are 2 references"):
        ReferenceFiles(pictures=files, **{option: values}).read()


def test_phrases_are_left_to_a_finder(files) -> None:
    given = ReferenceFiles(pictures=files, subject_masks=["find: a dog"], regions=["", "find:the cat"])
    assert given.phrases("subject_masks") == {0: "a dog"}
    assert given.phrases("regions") == {1: "the cat"}
    assert all(reference.subject_mask is None for reference in given.read())


def test_regions_are_refused_where_no_injector_heeds_them(system, files) -> None:
    """Better than an image in which the region was quietly ignored."""
    from subjectgen.runner.pipeline import SubjectPipeline

    given = ReferenceFiles(pictures=files, regions=["0,0,0.5,1"])
    references = given.placed(given.read(), (64, 64))
    with pytest.raises(InputError, match="no injector of this experiment heeds them"):
        SubjectPipeline(system())(prompt="the toy", references=references, steps=1)
    weighted = ReferenceFiles(pictures=files[:1], weights=[0.5]).read()
    with pytest.raises(InputError, match="no injector of this experiment heeds them"):
        SubjectPipeline(system())(prompt="the toy", references=weighted, steps=1)


def test_a_phrase_needs_a_finder(system, files) -> None:
    from subjectgen.core import Sample
    from subjectgen.runner.pipeline import SubjectPipeline

    references = tuple(ReferenceFiles(pictures=files).read())
    with pytest.raises(InputError, match="names no finder"):
        SubjectPipeline(system()).placed([Sample(prompt="the toy", references=references)], [0], {0: "the toy"})


def test_conditioning_keeps_whose_a_token_is(system) -> None:
    """From the encoder through the aggregator and the choice of rows."""
    from subjectgen.core import Reference, Sample, Visibility
    from subjectgen.runner.conditioning import encode, rows

    built = system()
    picture = Reference(image=torch.rand(3, 64, 64))
    samples = [Sample(prompt="the toy", references=(picture,) * count) for count in (1, 2)]
    seen = [sample.seen(Visibility()) for sample in samples]
    said = encode(built.branches["mllm"], seen)
    assert [set(row[mask].tolist()) for row, mask in zip(said.reference, said.mask, strict=True)] == [
        {-1, 0},
        {-1, 0, 1},
    ]
    assert torch.equal(rows(said, torch.tensor([1, 1])).reference, said.reference[[1, 1]])


def test_phases_may_have_their_own_data(write, tmp_path) -> None:
    """Each phase trains on its dataset, which are recorded apart."""
    from subjectgen.core.plugins import Plugins
    from subjectgen.runner.assemble import System
    from subjectgen.runner.experiment import Experiment
    from subjectgen.runner.training import Trainer

    small = {"name": "toy_pairs", "toys": 3, "views": 2, "block": 4}
    phases = [
        {"name": "first", "branches": ["mllm"], "steps": 1, "dataset": small},
        {"branches": ["mllm"], "steps": 1},
        {"branches": ["mllm"], "steps": 1, "dataset": dict(small)},
    ]
    system = System(Experiment.read(write({"training": {"phases": phases}})), Plugins.discover())
    trainer = Trainer(system, tmp_path / "run")
    assert trainer.datasets[0] is trainer.datasets[2]
    assert trainer.datasets[0] is not trainer.datasets[1]
    trainer.train()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [dataset["samples"] for dataset in facts["datasets"]] == [len(d) for d in trainer.datasets[:2]]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["phase 1 (first)", "phase 2 (mllm)", "phase 3 (mllm)"]


# ------------------------------------------------------------------------------------------------- comparisons


def test_variants_are_the_experiment_with_changes(write, checkpoints) -> None:
    from subjectgen.runner.comparing import variants
    from subjectgen.runner.pipeline import SubjectPipeline

    pipeline = SubjectPipeline.from_experiment(write(), device="cpu")
    changes = {
        "early": {"schedule": {"tau1": 0.9}},
        "wide": {"image": {"width": 96}},
        "plain": {},
    }
    seen = {
        name: (changed.system is pipeline.system, changed.system.schedule_spec["tau1"], changed.size())
        for name, changed in variants(pipeline, changes)
    }
    assert seen == {"early": (True, 0.9, (64, 64)), "wide": (False, 0.7, (64, 96)), "plain": (True, 0.7, (64, 64))}
    assert pipeline.system.schedule_spec["tau1"] == 0.7


@pytest.mark.parametrize(
    ("comparisons", "message"),
    [
        (
            {
                "one": {"dataset": {"name": "d"}, "metrics": [{"name": "m"}], "variants": {"same": {}}},
                "two": {"dataset": {"name": "d"}, "metrics": [{"name": "m"}], "variants": {"same": {}}},
            },
            "two variants are called 'same'",
        ),
        ({"one": {"dataset": {"name": "d"}, "metrics": []}}, "metrics"),
        ({"../one": {"dataset": {"name": "d"}, "metrics": [{"name": "m"}]}}, "comparisons"),
        ({"one": {"dataset": {"name": "d"}, "metrics": [{"name": "m"}], "variants": {"../../x": {}}}}, "variants"),
        ({"one": {"dataset": {"name": "d"}, "metric": []}}, "metric"),
    ],
)
def test_mistakes_in_comparisons(write, comparisons, message) -> None:
    from subjectgen.core import ConfigError
    from subjectgen.runner.experiment import Experiment

    with pytest.raises(ConfigError, match=message):
        Experiment.read(write({"comparisons": comparisons}))


def test_check_counts_without_building(write, capsys) -> None:
    """FLUX's 11.9 billion parameters in a moment and next to no memory."""
    from subjectgen.runner.cli import main

    changes = {
        "branches": {
            "mllm": {"injector": {"name": "context"}},
            "vae": {"injector": {"name": "reference_tokens"}},
        },
        "backbone": {"name": "flux", "checkpoint": None, "architecture": {}, "lora": {"rank": 512}},
        "schedule": {"guidance": {"embedded": 2.5}},
    }
    with pytest.raises(SystemExit, match="0"):
        main(["check", str(write(changes)), "--count", "--json"])
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert parts["backbone"]["parameters"] - parts["backbone"]["trainable"] == 11_901_408_320
    assert parts["branches.mllm.aggregator"]["trainable"] > 0


def test_a_headline_that_is_not_there_loses_nothing() -> None:
    from subjectgen.runner.comparing import line

    said = line("plain", {"scene_accuracy": 0.5}, ["scene_acuracy", "scene_accuracy"])
    assert "no score 'scene_acuracy'; did you mean 'scene_accuracy'?" in said
    assert "scene_accuracy 50.0%" in said


def test_two_metrics_with_one_name_are_refused(write) -> None:
    from subjectgen.runner.comparing import compare
    from subjectgen.runner.pipeline import SubjectPipeline

    metric = {"name": "toy_scores", "toys": 4}
    comparison = {
        "dataset": {"name": "held_out_toys", "toys": 4, "scenes": 1},
        "metrics": [metric, {**metric, "seed": 3}],
        "sensitivity": False,
    }
    pipeline = SubjectPipeline.from_experiment(
        write({"comparisons": {"toys": comparison}, "schedule": {"steps": 1}}), device="cpu"
    )
    settings = pipeline.system.experiment.settings.comparisons["toys"]
    with pytest.raises(InputError, match=r"comparisons\.toys\.metrics\.1: an earlier metric gives"):
        compare(pipeline, "toys", settings, say=print)


def test_weights_trained_with_other_layers_are_refused(system, tmp_path) -> None:
    """They would fit by their shapes."""
    from subjectgen.core import CheckpointError

    system().save_trained(tmp_path)
    other = {"branches": {"mllm": {"aggregator": {"name": "dla", "layers": {"text": "0-8", "image": "all"}}}}}
    system(other).load_trained(str(tmp_path))  # the same layers in other words
    fewer = {"branches": {"mllm": {"aggregator": {"name": "dla", "layers": {"text": "0-3", "image": "0-3"}}}}}
    later = {"branches": {"mllm": {"aggregator": {"name": "dla", "layers": {"text": "4-7", "image": "4-7"}}}}}
    system(fewer).save_trained(tmp_path / "fewer")
    with pytest.raises(CheckpointError, match=r"trained with layers\.text: \[0, 1, 2, 3\]; .* says \[4, 5, 6, 7\]"):
        system(later).load_trained(str(tmp_path / "fewer"))
