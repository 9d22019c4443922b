"""Scores of toys: the contract, and what a perfect and a hopeless generator get."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from subjectgen.core import InputError, Reference, Sample
from subjectgen.testing import MetricContract
from subjectgen.toybox.datasets import HeldOutToys
from subjectgen.toybox.judge import CLASSES, Judge, truth
from subjectgen.toybox.metrics import ToyScores
from subjectgen.toybox.renderer import render
from subjectgen.toybox.world import Draw, held_out_toys, random_view


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    dataset = HeldOutToys(HeldOutToys.Config(toys=32, scenes=1))
    return [dataset[index] for index in range(len(dataset))]


def test_real_renders_score_as_the_judge_does(samples: list[Sample]) -> None:
    metric = ToyScores(ToyScores.Config(toys=32))
    metric.update(samples, [sample.target for sample in samples if sample.target is not None])
    scores, judge = metric.compute(), metric.judge_accuracy()
    assert scores["scene_accuracy"] >= 0.97
    assert scores["identity_top1"] >= 0.9
    assert scores["shape_accuracy"] >= 0.85
    assert judge["scene_judge"] >= 0.97, "the bar of the demo"
    assert judge["identity_judge"] >= 0.9, "the bar of the demo"
    assert 0 < judge["azimuth_judge"] < 20, "degrees; a guess would be 50 off"


def test_the_reference_itself_is_all_copy_and_no_scene(samples: list[Sample]) -> None:
    metric = ToyScores(ToyScores.Config(toys=32))
    metric.update(samples, [sample.references[0].image for sample in samples])
    scores = metric.compute()
    assert scores["copy_paste_recall"] == 1
    assert scores["azimuth_difference"] == 0
    assert scores["scene_accuracy"] < 0.1


def test_noise_is_at_chance(samples: list[Sample]) -> None:
    metric = ToyScores(ToyScores.Config(toys=32))
    generator = torch.Generator().manual_seed(0)
    metric.update(samples, [torch.rand(3, 64, 64, generator=generator) for _ in samples])
    assert metric.compute()["identity_top1"] < 0.2


def test_samples_without_truth_are_refused(samples: list[Sample]) -> None:
    metric = ToyScores(ToyScores.Config(toys=4))
    picture = samples[0].references[0].image
    with pytest.raises(InputError, match="names no scene"):
        metric.update([Sample(prompt="the toy", references=samples[0].references)], [picture])
    with pytest.raises(InputError, match="toy-000 to toy-003"):
        metric.update([Sample(prompt="the toy at night", references=(Reference(image=picture),))], [picture])


def test_the_judge_reads_pictures_of_any_size() -> None:
    toys, draw = held_out_toys(4), Draw(0)
    views = [random_view(draw, accessories=False) for _ in toys]
    judge = Judge.load()
    small, large = (judge.identities(render(toys, views, size=size)) for size in (64, 128))
    assert ((small * large).sum(-1) > 0.8).all()
    assert set(CLASSES) <= set(judge.verdicts(render(toys, views))[0])
    assert set(truth(toys, views)) == {*CLASSES, "angles"}


def test_judges_weights_survive_their_file(tmp_path: Path) -> None:
    judge = Judge().eval()
    judge.save(tmp_path)
    picture = torch.rand(2, 3, 64, 64)
    loaded = Judge.load(str(tmp_path))
    torch.testing.assert_close(judge.identities(picture), loaded.identities(picture), atol=1e-2, rtol=1e-2)


class TestToyScores(MetricContract):
    @pytest.fixture
    def new_metric(self, samples: list[Sample]) -> Callable[[], ToyScores]:
        fresh = ToyScores(ToyScores.Config(toys=32))
        return lambda: copy.deepcopy(fresh)

    @pytest.fixture
    def cases(self, samples: list[Sample]) -> list[tuple[Sample, Tensor]]:
        return [(sample, sample.target) for sample in samples[:5] if sample.target is not None]

    @pytest.fixture
    def known(self, samples: list[Sample]) -> tuple[list[tuple[Sample, Tensor]], dict[str, float]]:
        """The references themselves: no prompted scene, no turn, and the judge's own word on the rest."""
        chosen, toys = samples[:4], held_out_toys(32)[:4]
        verdicts = Judge.load().verdicts(torch.stack([sample.references[0].image for sample in chosen]))
        right = {
            name: sum(row[name] == getattr(toy, name) for row, toy in zip(verdicts, toys, strict=True)) / 4
            for name in ("shape", "pattern", "part", "colour")
        }
        expected = {f"{name}_accuracy": share for name, share in right.items()}
        expected |= {"scene_accuracy": 0.0, "identity_top1": 1.0, "azimuth_difference": 0.0, "copy_paste_recall": 1.0}
        return [(sample, sample.references[0].image) for sample in chosen], expected
