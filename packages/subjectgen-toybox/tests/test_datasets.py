"""Toy pictures as samples."""

import pytest
import torch

from subjectgen.testing import DatasetContract
from subjectgen.toybox.datasets import HeldOutToys, ToyPairs, toy_of


class TestToyPairs(DatasetContract):
    @pytest.fixture
    def dataset(self) -> ToyPairs:
        return ToyPairs(ToyPairs.Config(toys=3, views=3, block=2))


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
        (sample.references[0].name, sample.references[0].image.sum().item(), sample.target.sum().item())
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


def test_held_out_samples_name_their_toy_and_never_repeat_the_references_scene() -> None:
    dataset = HeldOutToys(HeldOutToys.Config(toys=4, scenes=3))
    for index in range(len(dataset)):
        number = index // 3
        assert toy_of(dataset[index].references[0].name) == number
        assert dataset.target_views[number][index % 3].scene != dataset.reference_views[number].scene


def test_an_index_outside_is_refused() -> None:
    with pytest.raises(IndexError):
        ToyPairs(ToyPairs.Config(toys=1, views=2))[1]
