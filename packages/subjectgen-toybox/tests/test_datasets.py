"""Toy pictures as samples."""

import pytest
import torch

from subjectgen.testing import DatasetContract
from subjectgen.toybox.datasets import HeldOutToys, ToyPairs, toy_of


class TestToyPairs(DatasetContract):
    @pytest.fixture
    def dataset(self) -> ToyPairs:
        return ToyPairs(ToyPairs.Config(pairs=6, block=4))


class TestHeldOutToys(DatasetContract):
    @pytest.fixture
    def dataset(self) -> HeldOutToys:
        return HeldOutToys(HeldOutToys.Config(toys=4, scenes=2))


def test_pairs_have_reference_target_and_prompt() -> None:
    sample = ToyPairs(ToyPairs.Config(pairs=2, references=2, block=2))[1]
    assert len(sample.references) == 2
    assert sample.target is not None
    assert sample.target.shape == sample.references[0].image.shape == (3, 64, 64)
    assert sample.prompt.startswith("the toy")


def test_full_captions_describe_the_toy() -> None:
    assert ToyPairs(ToyPairs.Config(pairs=1, full_captions=True, block=1))[0].prompt.startswith("a ")


def test_another_seed_gives_other_pairs() -> None:
    one, other = (ToyPairs(ToyPairs.Config(pairs=1, seed=seed, block=1))[0] for seed in (0, 1))
    assert not torch.equal(one.target, other.target)


def test_held_out_samples_name_their_toy_and_never_repeat_the_references_scene() -> None:
    dataset = HeldOutToys(HeldOutToys.Config(toys=4, scenes=3))
    for index in range(len(dataset)):
        number = index // 3
        assert toy_of(dataset[index].references[0].name) == number
        assert dataset.target_views[number][index % 3].scene != dataset.reference_views[number].scene


def test_an_index_outside_is_refused() -> None:
    with pytest.raises(IndexError):
        ToyPairs(ToyPairs.Config(pairs=2))[2]
