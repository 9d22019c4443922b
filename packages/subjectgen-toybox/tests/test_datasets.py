"""Toy pictures as samples."""

from dataclasses import replace

import pytest
import torch

from subjectgen.testing import DatasetContract
from subjectgen.toybox.captions import SCENE_PHRASES, random_subject_prompt
from subjectgen.toybox.datasets import HeldOutToys, ToyPairs
from subjectgen.toybox.groups import ToyGroups
from subjectgen.toybox.renderer import render, subject_masks
from subjectgen.toybox.world import COLOURS, Draw, Toy, View, held_out_toys, random_toy, training_view


class TestToyPairs(DatasetContract):
    @pytest.fixture
    def dataset(self) -> ToyPairs:
        return ToyPairs(ToyPairs.Config(toys=3, views=3, block=2))


class TestIntraPairs(DatasetContract):
    @pytest.fixture
    def dataset(self) -> ToyPairs:
        return ToyPairs(ToyPairs.Config(toys=3, views=3, block=2, pairs="intra"))


class TestToyGroups(DatasetContract):
    @pytest.fixture
    def dataset(self) -> ToyGroups:
        return ToyGroups(ToyGroups.Config(groups=4, toys=3))


def test_a_group_shows_each_toy_of_its_references_in_one_scene() -> None:
    for index in range(6):
        sample = ToyGroups(ToyGroups.Config())[index]
        assert [tuple(one.image.shape) for one in sample.references] == [(3, 64, 64)] * 2
        assert tuple(sample.target.shape) == (3, 64, 128)
        assert " and a " in sample.prompt
        assert SCENE_PHRASES[sample.facts["scene"]] in sample.prompt
        assert len(sample.facts["toys"]) == 2


class TestHeldOutToys(DatasetContract):
    @pytest.fixture
    def dataset(self) -> HeldOutToys:
        return HeldOutToys(HeldOutToys.Config(toys=4, scenes=2))


def test_pairs_have_reference_target_and_prompt() -> None:
    dataset = ToyPairs(ToyPairs.Config(toys=1, views=4, references=2, block=1))
    for sample in (dataset[index] for index in range(len(dataset))):
        assert len(sample.references) == 2
        assert sample.target is not None
        assert sample.target.shape == sample.references[0].image.shape == (3, 64, 64)
        assert sample.prompt.startswith("the toy")
        assert not any(torch.equal(reference.image, sample.target) for reference in sample.references)


def test_every_ordered_pair_of_views_occurs() -> None:
    dataset = ToyPairs(ToyPairs.Config(toys=2, views=4, block=2))
    assert len(dataset) == 2 * 2 * 3
    pairs = {
        (sample.facts["subject"], sample.references[0].image.sum().item(), sample.target.sum().item())
        for sample in (dataset[index] for index in range(len(dataset)))
    }
    assert len(pairs) == len(dataset)


def test_too_few_views_are_refused() -> None:
    with pytest.raises(ValueError, match="expected more than references"):
        ToyPairs.Config(views=2, references=2)


def test_full_captions_describe_the_toy() -> None:
    assert ToyPairs(ToyPairs.Config(toys=1, full_captions=True))[0].prompt.startswith("a ")


def test_another_seed_gives_other_pairs() -> None:
    one, other = (ToyPairs(ToyPairs.Config(toys=1, seed=seed))[0] for seed in (0, 1))
    assert not torch.equal(one.target, other.target)


def test_held_out_samples_say_what_they_show_and_never_repeat_the_references_scene() -> None:
    dataset = HeldOutToys(HeldOutToys.Config(toys=4, scenes=3, seed=5))
    toys = held_out_toys(4, seed=5)
    for index in range(len(dataset)):
        sample, number = dataset[index], index // 3
        facts, (reference,) = sample.facts, sample.facts["references"]
        assert (facts["toy"], facts["subject"], facts["held_out_seed"]) == (number, f"toy-{number:03d}", 5)
        assert sample.key == f"toy-{number:03d}-{facts['scene']}-{index % 3}"
        shown = Toy(
            **{key: facts[key] for key in ("shape", "colour", "second_colour", "pattern", "part", "part_colour")}
        )
        assert shown.words == toys[number].words
        assert facts["class"] == toys[number].shape
        assert SCENE_PHRASES[facts["scene"]] in sample.prompt
        assert reference["scene"] != facts["scene"]
        assert not facts["same_pose"]
        drawn = View(**{key: facts[key] for key in ("scene", "azimuth", "polar", "accessory")})
        wanted = dataset.target_views[number][index % 3]
        assert drawn == replace(wanted, offset=(0.0, 0.0), seed=0)


def test_pairs_say_what_they_show() -> None:
    dataset, draw = ToyPairs(ToyPairs.Config(toys=1, views=4, seed=7, block=1)), Draw(7 * 1_000_003)
    toy = random_toy(draw)
    views = [training_view(draw, toy, accessories=view >= 2) for view in range(4)]
    sample = dataset[4]  # from view 1 to view 2
    assert sample.key == "training-toy-00000-from-1-to-2"
    assert sample.facts["class"] == toy.shape
    assert sample.facts["training_seed"] == 7
    assert sample.facts["azimuth"] == views[2].azimuth
    assert sample.facts["references"] == [
        {"scene": views[1].scene, "accessory": "nothing", "azimuth": views[1].azimuth, "polar": views[1].polar}
    ]
    assert not sample.facts["same_pose"]
    assert all(one.facts["same_pose"] for one in ToyPairs(ToyPairs.Config(toys=1, views=3, block=1, pairs="intra")))


def test_an_index_outside_is_refused() -> None:
    with pytest.raises(IndexError):
        ToyPairs(ToyPairs.Config(toys=1, views=2))[1]


def test_pairs_are_drawn_in_the_documented_order() -> None:
    """Runs of earlier versions must see the same data: toy, its views, its prompts, block by block."""
    dataset, draw = ToyPairs(ToyPairs.Config(toys=1, views=4, seed=7, block=1)), Draw(7 * 1_000_003)
    toy = random_toy(draw)
    views = [training_view(draw, toy, accessories=view >= 2) for view in range(4)]
    prompts = [random_subject_prompt(draw, view) for view in views]
    pictures = (render([toy] * 4, views) * 255).round() / 255
    roles = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    assert len(dataset) == len(roles)
    for index, (chosen, target) in enumerate(roles):
        sample = dataset[index]
        assert sample.prompt == prompts[target]
        assert sample.target is not None
        assert torch.equal(sample.references[0].image, pictures[chosen])
        assert torch.equal(sample.target, pictures[target])


def test_subject_masks_are_where_the_toys_are() -> None:
    dataset = HeldOutToys(HeldOutToys.Config(toys=4, scenes=1))
    for sample, mask in zip(
        (dataset[index] for index in range(4)), subject_masks(dataset.toys, dataset.reference_views), strict=True
    ):
        found = sample.references[0].subject_mask
        assert found is not None
        assert torch.equal(found, mask.float())


def test_an_intra_pairs_reference_is_its_target() -> None:
    config = ToyPairs.Config(toys=2, views=4, block=2, pairs="intra")
    dataset, across = ToyPairs(config), ToyPairs(config.model_copy(update={"pairs": "cross"}))
    assert len(dataset) == 2 * 4
    for sample in (dataset[index] for index in range(len(dataset))):
        (reference,) = sample.references
        assert sample.target is not None
        assert torch.equal(reference.image, sample.target)
        assert reference.subject_mask is not None
        assert 0.05 < reference.subject_mask.mean() < 0.7
    seen = {(across[index].prompt, across[index].target.sum().item()) for index in range(len(across))}  # type: ignore[union-attr]
    own = {(dataset[index].prompt, dataset[index].target.sum().item()) for index in range(len(dataset))}  # type: ignore[union-attr]
    assert own == seen, "the same pictures as cross pairs of the same seed"


def test_intra_pairs_have_one_reference() -> None:
    with pytest.raises(ValueError, match="expected 1 with pairs: intra"):
        ToyPairs.Config(references=2, pairs="intra")


def test_class_prompts_name_shapes_and_nothing_else_of_the_toys() -> None:
    from subjectgen.toybox.together import ToysTogether

    single = HeldOutToys(HeldOutToys.Config(toys=12, scenes=1, prompts="class"))
    group = ToysTogether(ToysTogether.Config(toys=12, scenes=1, prompts="class"))
    for index in range(12):
        shape = single.toys[index].shape
        assert single[index].prompt.startswith(f"a {shape} ")
        names = " and ".join(f"a {group.toys[toy].shape}" for toy in group.groups[index])
        assert group[index].prompt.startswith(f"{names} ")
        assert not set(COLOURS) & set(f"{single[index].prompt} {group[index].prompt}".split())
