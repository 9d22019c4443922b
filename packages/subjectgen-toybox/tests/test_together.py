"""Several toys in one picture: the contracts, and what right, swapped, doubled and mixed pictures score."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from torch import Tensor

from subjectgen.core import ConfigError, InputError, Sample, place_references
from subjectgen.testing import DatasetContract, MetricContract
from subjectgen.toybox.captions import SCENE_PHRASES
from subjectgen.toybox.datasets import HeldOutToys
from subjectgen.toybox.renderer import render
from subjectgen.toybox.together import ToysTogether
from subjectgen.toybox.together_metric import TogetherScores
from subjectgen.toybox.world import Draw, Toy, held_out_toys, random_view

TOYS = held_out_toys(32)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    dataset = ToysTogether(ToysTogether.Config(scenes=1))
    return [dataset[index] for index in range(len(dataset))]


@pytest.fixture(scope="module")
def fresh() -> TogetherScores:
    return TogetherScores(TogetherScores.Config())


def shown(sample: Sample) -> list[int]:
    """Numbers of the sample's toys."""
    numbers = sample.facts["toys"]
    assert isinstance(numbers, list)
    return numbers


def wide(left: Tensor, right: Tensor) -> Tensor:
    """Two square pictures where the default crops are, grey between them."""
    picture = torch.full((3, 64, 176), 0.5)
    picture[:, :, :64], picture[:, :, 100:164] = left, right
    return picture


def drawn(sample: Sample, toys: list[Toy]) -> Tensor:
    """A real picture of toys in the prompted scene."""
    draw, scene = Draw(len(sample.prompt) + shown(sample)[0]), sample.facts["scene"]
    left, right = render(toys, [random_view(draw, scene=scene, accessories=False) for _ in toys])
    return wide(left, right)


def scores(metric: TogetherScores, samples: list[Sample], choose: Callable[[list[int]], list[int]]) -> dict[str, float]:
    """What pictures get that show ``choose`` of the wanted toys."""
    pictures = [drawn(s, [TOYS[number] for number in choose(shown(s))]) for s in samples]
    return reduced(metric, samples, pictures)


def reduced(metric: TogetherScores, samples: Sequence[Sample], pictures: Sequence[Tensor]) -> dict[str, float]:
    """Mean of each score over the rows."""
    rows = metric.measure(samples, pictures)
    return {name: fmean(value for row in rows if (value := row[name]) is not None) for name in metric.scores}


class TestToysTogether(DatasetContract):
    @pytest.fixture
    def dataset(self) -> ToysTogether:
        return ToysTogether(ToysTogether.Config(toys=12, scenes=2))


class TestTogetherScores(MetricContract):
    tolerance = 1e-6
    needs = ("toys", "held_out_seed", "scene")

    @pytest.fixture
    def metric(self, fresh: TogetherScores) -> TogetherScores:
        return fresh

    @pytest.fixture
    def cases(self, samples: list[Sample]) -> list[tuple[Sample, Tensor]]:
        return [(sample, wide(*(reference.image for reference in sample.references))) for sample in samples[:4]]

    @pytest.fixture
    def known(
        self, samples: list[Sample], fresh: TogetherScores
    ) -> tuple[list[tuple[Sample, Tensor]], list[dict[str, float]]]:
        """The references exchanged: no wanted scene, no identity, and the judge's own word on the rest."""
        cases, rows = [], []
        for sample in samples[:4]:
            exchanged = torch.stack([reference.image for reference in reversed(sample.references)])
            cases.append((sample, wide(*exchanged)))
            row = {"identity_top1": 0.0, "both_right": 0.0, "swapped": 1.0, "scene_accuracy": 0.0}
            verdicts = fresh.judge.verdicts(exchanged)
            for name in ("shape", "pattern", "part", "colour"):
                right = [v[name] == getattr(TOYS[n], name) for v, n in zip(verdicts, shown(sample), strict=True)]
                row[f"{name}_accuracy"] = sum(right) / 2
            rows.append(row)
        return cases, rows


def test_toys_of_a_picture_differ_in_family_and_colour_and_no_reference_is_in_the_scene() -> None:
    dataset = ToysTogether(ToysTogether.Config(scenes=3))
    for index in range(len(dataset)):
        sample = dataset[index]
        one, other = shown(sample)
        assert one // 4 != other // 4
        assert dataset.toys[one].colour != dataset.toys[other].colour
        scene = sample.facts["scene"]
        assert scene not in {view["scene"] for view in sample.facts["references"]}
        assert SCENE_PHRASES[scene] in sample.prompt
        assert sample.key == f"toys-{one:03d}-{other:03d}-{scene}-{index % 3}"
        assert sample.prompt.startswith("the toy ")
    prompts = [dataset[index].prompt for index in range(len(dataset))]
    assert len(set(prompts[:3])) == 3
    assert min(prompts.count(prompt) for prompt in prompts) >= 12, "96 samples, six scenes"
    firsts = [shown(dataset[index])[0] for index in range(0, len(dataset), 3)]
    assert firsts == list(range(32)), "each toy comes first once"


def test_references_are_those_of_held_out_toys() -> None:
    alone, together = HeldOutToys(HeldOutToys.Config(toys=12, scenes=1)), ToysTogether(ToysTogether.Config(toys=12))
    facts = together[0].facts
    assert facts["subjects"] == [f"toy-{number:03d}" for number in facts["toys"]]
    assert facts["classes"] == [alone[number].facts["class"] for number in facts["toys"]]
    for number, reference, shows in zip(facts["toys"], together[0].references, facts["references"], strict=True):
        known = alone[number].references[0]
        assert {key: shows[key] for key in ("scene", "azimuth", "polar", "accessory")} in alone[number].facts[
            "references"
        ]
        assert torch.equal(reference.image, known.image)
        assert reference.subject_mask is not None
        assert known.subject_mask is not None
        assert torch.equal(reference.subject_mask, known.subject_mask)


def test_regions_fall_on_the_tokens_of_the_wide_picture() -> None:
    placement = place_references([ToysTogether(ToysTogether.Config(toys=12))[0]], (4, 11))
    assert placement is not None
    columns = placement.regions[0].mean(1)
    assert columns.tolist() == [[1.0] * 5 + [0.0] * 6, [0.0] * 6 + [1.0] * 5]


def test_three_regions_make_groups_of_three() -> None:
    boxes = ((0, 0, 32, 64), (32, 0, 64, 64), (64, 0, 96, 64))
    dataset = ToysTogether(ToysTogether.Config(width=96, regions=boxes, scenes=2))
    for group in dataset.groups:
        assert len({dataset.toys[number].colour for number in group}) == 3
    assert len(dataset[0].references) == 3


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="0 <= left < right"):
        ToysTogether.Config(regions=((10, 0, 10, 64),))
    with pytest.raises(ValueError, match="expected at most 4"):
        ToysTogether.Config(scenes=5)
    with pytest.raises(InputError, match=r"regions\.1.*outside"):
        ToysTogether(ToysTogether.Config(width=170))
    with pytest.raises(ConfigError, match="toys: got 4; expected enough for 2 families"):
        ToysTogether(ToysTogether.Config(toys=4))


def test_real_renders_in_their_places_score_as_the_judge_does(samples: list[Sample], fresh: TogetherScores) -> None:
    given, judge = scores(fresh, samples, lambda numbers: numbers), fresh.calibrate()
    assert given["identity_top1"] >= 0.95
    assert given["both_right"] >= 0.9
    assert given["swapped"] == 0
    assert given["scene_accuracy"] >= 0.95
    assert given["shape_accuracy"] >= 0.85
    assert given["colour_accuracy"] >= 0.85
    assert set(judge) == {"scene_accuracy", "shape_accuracy", "identity_top1"}
    assert judge["identity_top1"] >= 0.9


def test_swapped_pictures_are_all_swapped(samples: list[Sample], fresh: TogetherScores) -> None:
    given = scores(fresh, samples, lambda numbers: numbers[::-1])
    assert given["swapped"] >= 0.97
    assert given["identity_top1"] <= 0.03
    assert given["both_right"] == 0
    assert given["scene_accuracy"] >= 0.95, "the scene does not depend on who is where"


def test_one_toy_twice_is_half_right_and_swapped(samples: list[Sample], fresh: TogetherScores) -> None:
    given = scores(fresh, samples, lambda numbers: [numbers[0], numbers[0]])
    assert given["identity_top1"] == pytest.approx(0.5, abs=0.05)
    assert given["both_right"] == 0
    assert given["swapped"] >= 0.95


def test_other_toys_of_the_same_colours_are_wrong_but_not_swapped(samples: list[Sample], fresh: TogetherScores) -> None:
    given = scores(fresh, samples, lambda numbers: [number // 4 * 4 + (number + 1) % 4 for number in numbers])
    assert given["identity_top1"] <= 0.05
    assert given["swapped"] <= 0.05
    assert given["colour_accuracy"] >= 0.85


def test_a_scene_in_one_half_only_is_no_scene(samples: list[Sample], fresh: TogetherScores) -> None:
    halves = [wide(drawn(s, [TOYS[n] for n in shown(s)])[:, :, :64], s.references[1].image) for s in samples[:6]]
    assert reduced(fresh, samples[:6], halves)["scene_accuracy"] == 0


def test_samples_and_pictures_that_do_not_fit_are_refused(samples: list[Sample], fresh: TogetherScores) -> None:
    picture, sample = torch.rand(3, 64, 176), samples[0]

    def refused(message: str, image: Tensor = picture, **facts: object) -> None:
        with pytest.raises(InputError, match=message):
            fresh.measure([replace(sample, facts={**sample.facts, **facts})], [image])

    refused(rf"{sample.key}.*toys: got \[0\]; expected one per crop, 2", toys=[0])
    refused("toys: got .*expected numbers of held-out toys, 0 to 31", toys=[0, 32])
    refused("toys: got 5; expected one per crop", toys=5)
    refused("held_out_seed: got 1", held_out_seed=1)
    refused(r"crops\.1: reaches to column 164 and row 64; the image of sample .* is 64 wide", torch.rand(3, 64, 64))
