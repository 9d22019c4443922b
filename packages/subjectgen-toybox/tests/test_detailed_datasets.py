"""Training pairs of detailed toys: half share the pose, facts say which, prompts name no detail."""

import pickle

import pytest
import torch

from subjectgen.toybox.detailed.datasets import DetailedToyPairs
from subjectgen.toybox.detailed.world import SHARED_POSE_LIMIT
from subjectgen.toybox.vocabulary import unknown_words


@pytest.fixture(scope="module")
def pairs() -> DetailedToyPairs:
    return DetailedToyPairs(DetailedToyPairs.Config(toys=3, pairs=4, block=2))


def test_half_of_the_pairs_share_the_pose_and_the_facts_say_which(pairs: DetailedToyPairs) -> None:
    facts = [pairs[index].facts for index in range(len(pairs))]
    assert sum(bool(fact["same_pose"]) for fact in facts) == len(pairs) / 2
    for fact in facts:
        (reference,) = fact["references"]
        near = abs(fact["azimuth"] - reference["azimuth"]) < SHARED_POSE_LIMIT
        assert fact["same_pose"] == (near and fact["polar"] == reference["polar"])
        assert fact["scene"] != reference["scene"]


def test_facts_tell_the_details_and_prompts_do_not(pairs: DetailedToyPairs) -> None:
    sample = pairs[5]
    assert {"badge", "code", "tint"} <= set(sample.facts)
    assert unknown_words(sample.prompt) == []
    assert sample.prompt.startswith("the toy")


def test_pictures_are_of_96_pixels_with_a_mask(pairs: DetailedToyPairs) -> None:
    sample = pairs[9]
    assert sample.target is not None
    assert sample.target.shape == sample.references[0].image.shape == (3, 96, 96)
    mask = sample.references[0].subject_mask
    assert mask is not None
    assert 0.1 < mask.mean() < 0.9


def test_the_same_index_gives_the_same_pair_in_every_order_and_process(pairs: DetailedToyPairs) -> None:
    other = pickle.loads(pickle.dumps(pairs))  # noqa: S301
    for index in (10, 0):
        assert other[index].facts == pairs[index].facts
        torch.testing.assert_close(other[index].target, pairs[index].target, rtol=0, atol=0)
    keys = {pairs[index].key for index in range(len(pairs))}
    assert len(keys) == len(pairs) == 12
    with pytest.raises(IndexError):
        pairs[12]
