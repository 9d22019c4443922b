"""The toy world: identities, what no training sees, and directions as a person says them."""

from itertools import combinations

import pytest
from hypothesis import given, strategies as st

from subjectgen.toybox.world import (
    MAX_AZIMUTH,
    Draw,
    Toy,
    View,
    angular_difference,
    held_out_toys,
    is_held_out,
    is_held_out_combination,
    random_toy,
    random_view,
    training_view,
)

seeds = st.integers(0, 2**31 - 1)


@given(seeds)
def test_training_toys_are_never_held_out(seed: int) -> None:
    assert not is_held_out(random_toy(Draw(seed)))


@given(seeds)
def test_training_views_avoid_held_out_combinations(seed: int) -> None:
    draw = Draw(seed)
    toy = random_toy(draw)
    assert not is_held_out_combination(toy, training_view(draw, toy).scene)


@given(seeds)
def test_the_same_seed_draws_the_same_world(seed: int) -> None:
    one, other = Draw(seed), Draw(seed)
    assert (random_toy(one), random_view(one)) == (random_toy(other), random_view(other))


def test_held_out_families_cannot_be_told_apart_by_colour() -> None:
    toys = held_out_toys(32)
    assert len({toy.words for toy in toys}) == 32
    assert all(is_held_out(toy) for toy in toys)
    for start in range(0, 32, 4):
        family = toys[start : start + 4]
        assert len({(toy.colour, toy.second_colour, toy.part_colour) for toy in family}) == 1
        for one, other in combinations(family, 2):
            differences = (one.shape != other.shape, one.pattern != other.pattern, one.part != other.part)
            assert sum(differences) >= 2


def test_a_shorter_list_of_held_out_toys_is_the_start_of_a_longer_one() -> None:
    assert held_out_toys(8) == held_out_toys(16)[:8]


def test_about_one_identity_in_eight_is_held_out() -> None:
    draw = Draw(0)
    share = sum(is_held_out(random_toy(draw, held_out=None)) for _ in range(2000)) / 2000
    assert share == pytest.approx(1 / 8, abs=0.03)


@given(st.floats(-MAX_AZIMUTH, MAX_AZIMUTH))
def test_directions_are_mirrored(azimuth: float) -> None:
    mirrored = {"left": "right", "right": "left", "front": "front"}
    assert View(scene="snow", azimuth=-azimuth).direction == mirrored[View(scene="snow", azimuth=azimuth).direction]


@given(st.floats(-720, 720), st.floats(-720, 720))
def test_angular_difference_is_symmetric_and_at_most_half_a_turn(one: float, other: float) -> None:
    assert 0 <= angular_difference(one, other) <= 180
    assert angular_difference(one, other) == pytest.approx(angular_difference(other, one))
    assert angular_difference(one + 360, other) == pytest.approx(angular_difference(one, other), abs=1e-9)


def test_identity_has_no_second_colour_without_a_pattern() -> None:
    draw = Draw(1)
    for toy in (random_toy(draw) for _ in range(200)):
        assert isinstance(toy, Toy)
        assert (toy.second_colour is None) == (toy.pattern == "plain")
        assert (toy.part_colour is None) == (toy.part == "nothing")
