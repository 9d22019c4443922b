"""DynaIP through the command line: trained weights that work, regions that hold, and masks found by their names."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import ChangesResults, Component, Config, InputError, Reference, Sample, hookimpl, to_pil

ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "experiments" / "toybox" / "dynaip.yaml"
FEWER = [
    "comparisons.decoupling.dataset.toys=12",
    "comparisons.decoupling.dataset.scenes=1",
    "comparisons.granularity.dataset.toys=12",
    "comparisons.unnamed.dataset.toys=12",
    "comparisons.unnamed.dataset.scenes=1",
    "comparisons.together.dataset.toys=12",
]


@pytest.fixture(scope="module")
def pipeline():
    from subjectgen.runner.generation.pipeline import SubjectPipeline

    return SubjectPipeline.from_experiment(EXPERIMENT, device="cpu")


@pytest.fixture(scope="module")
def pairs() -> list[Sample]:
    """Two toys side by side, each with its region."""
    from subjectgen.core.plugins import Plugins

    dataset = Plugins.discover().build("datasets", {"name": "toys_together", "toys": 12, "scenes": 1})
    return [dataset[index] for index in range(6)]


def run(*arguments: object) -> None:
    """The command line; it ends without an error."""
    from subjectgen.runner.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0


def generated(pipeline, samples: Sequence[Sample], seeds: Sequence[int], *, width: int = 176, steps: int | None = None):
    """Images (n, 3, h, w), one of each sample and its seed."""
    from subjectgen.runner.generation.request import Request

    return torch.stack(pipeline.generate(Request.of(samples, seeds, size=(64, width), steps=steps)).tensors)


# --------------------------------------------------------------------------------------------------- the demo


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("dynaip")
    changes = [word for change in FEWER for word in ("--set", change)]
    run("demo", EXPERIMENT, "--out", folder, "--device", "cpu", *changes)
    assert {path.name for path in folder.iterdir()} >= {
        "sheet-decoupling.png",
        "sheet-granularity.png",
        "sheet-together.png",
        "index.html",
    }
    written = json.loads((folder / "scores.json").read_text())
    assert written.pop("known_pictures")["identity_top1"]["mean"] >= 0.9
    return written


@pytest.mark.slow
def test_the_demo_scores_every_variant(scores) -> None:
    singles = {"decoupled", "entangled", "unnamed_decoupled", "unnamed_entangled", "routed", "low", "middle", "high"}
    assert set(scores) == singles | {"two_decoupled", "two_entangled"}
    for name in singles:
        assert scores[name].keys() >= {"scene_accuracy", "identity_top1", "copy_paste_recall"}


def values(scores: dict, variant: str) -> dict[str, float]:
    return {name: found["mean"] for name, found in scores[variant].items()}


@pytest.mark.slow
def test_the_trained_adapter_works(scores) -> None:
    decoupled = values(scores, "decoupled")
    assert decoupled["scene_accuracy"] >= 0.75
    assert decoupled["identity_top1"] >= 0.5, "chance is 1 in 12"
    assert decoupled["sensitivity_subject"] > 0.05
    assert decoupled["sensitivity_text"] == 0, "the text branch sees no reference"


@pytest.mark.slow
def test_two_toys_that_were_never_trained_together(scores) -> None:
    both = values(scores, "two_decoupled")
    assert both["identity_top1"] >= 0.5, "chance is 1 in 12"
    assert both["swapped"] <= 0.1


# ---------------------------------------------------------------------------------------------------- regions


def test_each_region_follows_its_own_reference(pipeline, pairs) -> None:
    """Another second toy changes the right half; the left one only as far as the blocks' own attention carries it."""
    others = [
        replace(one, references=(one.references[0], replace(other.references[1], name="x")))
        for one, other in zip(pairs[:3], pairs[3:], strict=True)
    ]
    seeds = [0, 1, 2]
    before, after = (generated(pipeline, samples, seeds) for samples in (pairs[:3], others))
    changed = (after - before).square().mean(dim=(0, 1, 2))
    assert changed[96:].mean() > 3 * changed[:80].mean()


def test_weight_zero_is_no_reference(pipeline, pairs) -> None:
    silent = [replace(s, references=tuple(replace(r, weight=0.0) for r in s.references)) for s in pairs[:2]]
    bare = [replace(s, references=()) for s in pairs[:2]]
    one, two = (generated(pipeline, samples, [0, 1], steps=4) for samples in (silent, bare))
    difference = (one - two).abs().max()  # guidance's negative pass is another batch of the same numbers
    assert difference < 1e-4


def test_regions_from_the_command_line(tmp_path: Path, pairs) -> None:
    files = []
    for number, reference in enumerate(pairs[0].references):
        files.append(tmp_path / f"{number}.png")
        to_pil(reference.image).save(files[-1])
    arguments = ["generate", EXPERIMENT, "--prompt", "the toy in the snow", "--width", 176, "--steps", 4]
    arguments += ["--reference", files[0], "--region", "0,0,80,64", "--weight", 1, "--subject-mask", "4,4,60,60"]
    arguments += ["--reference", files[1], "--region", "96,0,176,64", "--weight", 0.8]
    arguments += ["--out", tmp_path / "out", "--device", "cpu"]
    run(*arguments)
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json"))
    assert record["regions"] == ["0,0,80,64", "96,0,176,64"]
    assert record["weights"] == [1.0, 0.8]
    assert record["width"] == 176
    routed = record["explained"]["subject"]["router_weights"]
    assert [round(sum(weights), 2) for weights in routed] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--region", "0,0,1,1", "--region", "0,0,1,1"], r"--region: got 2, but there are 1 references"),
        (["--region", "0,0,400,64"], r"reaches outside of the picture, which is 64 wide"),
        (["--region", "10,0,10,64"], "is empty"),
        (["--region", "square.png", "--width", "128"], "the region mask is 8x8; expected the aspect ratio"),
        (["--region", "black.png"], "region .black.png. is empty"),
        (["--region", "find:the toy"], "names no finder"),
        (["--subject-mask", "square.png"], "is 8x8; expected the size of its reference"),
        (["--set", "branches.subject.aggregator.weights=[0.5,0.5,0.5]"], "weights.*sum"),
        (["--set", "branches.subject.aggregator.levels=[3,6,12]"], "levels: got 12; the encoder has hidden states 0-8"),
    ],
)
def test_mistakes_are_one_message(options, message, tmp_path: Path, pairs, capsys, monkeypatch) -> None:
    from PIL import Image

    from subjectgen.runner.cli.main import main

    monkeypatch.chdir(tmp_path)
    to_pil(pairs[0].references[0].image).save("toy.png")
    Image.new("L", (8, 8), 255).save("square.png")
    Image.new("L", (8, 8), 0).save("black.png")
    arguments = [
        "generate",
        str(EXPERIMENT),
        "--prompt",
        "the toy in the snow",
        "--reference",
        "toy.png",
        "--steps",
        "1",
    ]
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, *options, "--steps", "1", "--device", "cpu"])
    error = capsys.readouterr().err
    assert error.count("error:") == 1

    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------- finders


class WhiteFinder:
    """Finds what is white: a real finder of a very small world."""

    class Config(Config):
        """Options."""

        least: ChangesResults[float] = 0.6
        """Darkest white."""

    def __init__(self, config: Config) -> None:
        self.least = config.least

    def find(self, image: Float[Tensor, "3 h w"], phrases: list[str]) -> Float[Tensor, "k h w"]:
        mask = (image.amin(dim=0) > self.least).float()
        if not mask.any():
            raise InputError(f"{phrases[0]}: found nowhere")
        return mask.expand(len(phrases), -1, -1)


@pytest.fixture
def with_finder(monkeypatch: pytest.MonkeyPatch):
    """The experiment with a finder that a plugin of this test offers."""
    from subjectgen.core.plugins import Plugins
    from subjectgen.runner.generation.pipeline import SubjectPipeline

    module = ModuleType("white_finder_plugin")
    module.WhiteFinder = WhiteFinder

    @hookimpl
    def subjectgen_finders() -> list[Component]:
        return [Component(name="white", target="white_finder_plugin:WhiteFinder", summary="What is white")]

    module.subjectgen_finders = subjectgen_finders
    monkeypatch.setitem(sys.modules, module.__name__, module)
    plugins = Plugins.discover()
    plugins.register(module, distribution="white-finder")
    return SubjectPipeline.from_experiment(
        EXPERIMENT, overrides=["finder={name: white}"], device="cpu", plugins=plugins
    )


def in_places(pipeline, sample: Sample, seed: int, phrase: str) -> Sample:
    """The sample with its first reference where the phrase is found."""
    from subjectgen.runner.generation.regions import placed
    from subjectgen.runner.generation.request import Request

    (case,) = placed(pipeline, Request.of([sample], [seed]), {0: phrase}).cases
    return case.sample


def test_regions_are_found_in_a_draft_of_the_same_seed(with_finder, pairs) -> None:
    reference = replace(pairs[0].references[0], region_mask=None)
    sample = Sample(prompt="the toy in the snow", references=(reference,))
    mask = in_places(with_finder, sample, 3, "the snow").references[0].region_mask
    (draft,) = generated(with_finder, [Sample(prompt="the toy in the snow")], [3], width=64)
    assert torch.equal(mask[0], (draft.amin(dim=0) > 0.6).float())
    assert mask.any()


def test_a_phrase_that_the_prompt_does_not_name(with_finder, pairs) -> None:
    with pytest.raises(InputError, match=r"'the toy in the snow' does not name it"):
        in_places(with_finder, Sample(prompt="the toy in the snow", references=pairs[0].references), 0, "the dog")


# -------------------------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_both_phases_train_only_the_new_layers(tmp_path: Path) -> None:
    from subjectgen.runner.generation.pipeline import SubjectPipeline
    from subjectgen.runner.system.build import build_system
    from subjectgen.runner.system.experiment import Experiment
    from subjectgen.runner.training.run import train_system

    changes = [
        "training.dataset.toys=6",
        "training.phases.0.dataset.toys=6",
        "training.phases.0.steps=2",
        "training.phases.1.steps=2",
        "training.batch_size=4",
    ]
    system = build_system(Experiment.read(EXPERIMENT, changes))
    assert {name.rpartition(".subject.")[2].split(".")[0] for name in system.trainable()} == {"aggregator", "injector"}
    before = {name: value.clone() for name, value in system.backbone.state_dict().items()}
    train_system(system, tmp_path / "run")
    assert all(torch.equal(value, before[name]) for name, value in system.backbone.state_dict().items())
    assert any(value.any() for name, value in system.trainable().items() if "values" in name)
    picture = Reference(image=torch.rand(3, 64, 64))
    pipeline = SubjectPipeline.from_pretrained(tmp_path / "run", device="cpu")
    (image,) = pipeline(prompt="the toy at night", references=[picture], steps=2).tensors
    assert image.isfinite().all()
    phases = [json.loads(line)["phase"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert phases == ["phase 1 (intra_pair)", "phase 2 (cross_pair)"]
