"""Toys with details: codes, what no training sees, families, pairs of views, and captions that never tell a detail."""

from itertools import combinations

import pytest
from hypothesis import given, strategies as st

from subjectgen.toybox import world
from subjectgen.toybox.captions import caption
from subjectgen.toybox.detailed.captions import LONGEST, random_side_by_side_caption, side_by_side_caption
from subjectgen.toybox.detailed.details import BADGES, CELLS, CODES, NO_CODE, Details, are_held_out, bits, lexicode
from subjectgen.toybox.detailed.world import (
    FAMILY,
    MAX_AZIMUTH,
    SHARED_POSE_LIMIT,
    DetailedToy,
    family_of,
    held_out_toys,
    is_held_out,
    may_be_trained,
    poses_are_shared,
    random_toy,
    random_view,
    training_view,
    view_pair,
)
from subjectgen.toybox.vocabulary import unknown_words
from subjectgen.toybox.world import ACCESSORIES, SCENES, Draw, View

seeds = st.integers(0, 2**31 - 1)


def test_badges_are_16_words_that_differ_in_at_least_4_cells() -> None:
    assert len(BADGES) == 16
    assert min((one ^ other).bit_count() for one, other in combinations(BADGES, 2)) == 4


def test_codes_differ_in_at_least_2_bits_and_always_show_both_colours() -> None:
    assert min((one ^ other).bit_count() for one, other in combinations(CODES, 2)) == 2
    assert all(1 <= code <= 62 for code in CODES)


@given(st.integers(1, 8), st.integers(1, 4))
def test_a_lexicode_cannot_be_extended(length: int, distance: int) -> None:
    words = lexicode(length, distance)
    assert words[0] == 0
    for word in set(range(2**length)) - set(words):
        assert any((word ^ other).bit_count() < distance for other in words)


def test_bits_are_those_of_the_word() -> None:
    assert all(sum(bit << place for place, bit in enumerate(bits(word, CELLS))) == word for word in BADGES)


@given(seeds)
def test_training_and_held_out_toys_share_neither_words_nor_details(seed: int) -> None:
    trained, kept = random_toy(Draw(seed)), random_toy(Draw(seed), held_out=True)
    assert may_be_trained(trained)
    assert is_held_out(kept)
    assert not world.is_held_out(trained)
    assert world.is_held_out(kept)
    assert not are_held_out(trained.details)
    assert are_held_out(kept.details)


def test_words_and_details_of_many_toys_are_disjoint() -> None:
    draw = Draw(0)
    trained = [random_toy(draw) for _ in range(600)]
    kept = held_out_toys(64)
    assert not {toy.words for toy in trained} & {toy.words for toy in kept}
    assert not {_pair(toy.details) for toy in trained} & {_pair(toy.details) for toy in kept}


def test_one_pair_of_badge_and_code_in_eight_is_held_out_and_training_sees_every_badge_and_code() -> None:
    pairs = [Details(badge=badge, code=code) for badge in BADGES for code in CODES]
    trained = [details for details in pairs if not are_held_out(details)]
    assert 1 - len(trained) / len(pairs) == pytest.approx(1 / 8, abs=0.03)
    assert {details.badge for details in trained} == set(BADGES)
    assert {details.code for details in trained} == set(CODES)
    plain = [Details(badge=badge, code=NO_CODE) for badge in BADGES]
    assert 0 < sum(map(are_held_out, plain)) < len(plain)


@given(seeds)
def test_only_plain_toys_have_no_code(seed: int) -> None:
    toy = random_toy(Draw(seed))
    assert (toy.details.code == NO_CODE) == (toy.pattern == "plain")


@given(seeds, st.booleans())
def test_a_family_differs_in_details_alone(seed: int, held_out: bool) -> None:
    family = family_of(Draw(seed), FAMILY, held_out=held_out)
    assert len({_pair(toy.details) for toy in family}) == FAMILY
    assert len({_all_but_details(toy) for toy in family}) == 1
    assert all(is_held_out(toy) if held_out else may_be_trained(toy) for toy in family)


def test_held_out_families_have_different_words_and_a_shorter_list_is_the_start_of_a_longer_one() -> None:
    toys = held_out_toys(64)
    assert len({toy.words for toy in toys}) == 64 // FAMILY
    assert held_out_toys(20) == toys[:20]


@given(seeds, st.booleans())
def test_pairs_share_the_pose_as_they_say(seed: int, shared: bool) -> None:
    draw = Draw(seed)
    toy = random_toy(draw)
    pair = view_pair(draw, toy, shared_pose=shared)
    near = abs(pair.first.azimuth - pair.second.azimuth) < SHARED_POSE_LIMIT
    assert pair.shared_pose == shared == poses_are_shared(pair.first, pair.second)
    assert shared == (near and pair.first.polar == pair.second.polar)
    assert pair.first.scene != pair.second.scene
    assert pair.first.accessory == "nothing"
    assert max(abs(pair.first.azimuth), abs(pair.second.azimuth)) <= MAX_AZIMUTH


@given(seeds)
def test_views_turn_at_most_60_degrees_and_training_avoids_held_out_combinations(seed: int) -> None:
    draw = Draw(seed)
    toy = random_toy(draw)
    view = training_view(draw, toy)
    assert not world.is_held_out_combination(toy, view.scene)
    assert abs(view.azimuth) <= MAX_AZIMUTH
    assert abs(random_view(draw).azimuth) <= MAX_AZIMUTH


@given(seeds)
def test_captions_do_not_depend_on_details(seed: int) -> None:
    draw = Draw(seed)
    one, other = family_of(draw, 2)
    left, right = random_view(draw), random_view(draw)
    assert caption(one, left) == caption(other, left)
    assert side_by_side_caption(one, left, right) == side_by_side_caption(other, left, right)


@given(seeds)
def test_captions_of_two_pictures_are_known_words_and_fit_the_text_path(seed: int) -> None:
    draw = Draw(seed)
    text = random_side_by_side_caption(draw, random_toy(draw), random_view(draw), random_view(draw))
    assert unknown_words(text) == []
    assert len(text.split()) <= LONGEST


def test_the_longest_caption_has_the_promised_length() -> None:
    draw = Draw(1)
    toys = [random_toy(draw) for _ in range(200)]
    views = [View(scene=scene, accessory=accessory) for scene in SCENES for accessory in ACCESSORIES]
    longest = max(len(side_by_side_caption(toy, view, view).split()) for toy in toys for view in views)
    assert longest == LONGEST


def _pair(details: Details) -> tuple[int, int]:
    return details.badge, details.code


def _all_but_details(toy: DetailedToy) -> tuple[object, ...]:
    return (*toy.words, toy.width, toy.height, toy.shade)
