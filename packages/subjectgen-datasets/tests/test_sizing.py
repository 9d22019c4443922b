import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from subjectgen.core import fit_image
from subjectgen.datasets.sizing import Framing, SizedConfig, cover, nearest_bucket, within_area

SIDES = st.integers(1, 3000)
SIZES = st.tuples(SIDES, SIDES)
SMALL = st.tuples(st.integers(1, 40), st.integers(1, 40))


def test_the_bucket_of_nearest_aspect() -> None:
    buckets = [(512, 512), (448, 576), (576, 448)]
    assert nearest_bucket((1024, 1000), buckets) == (512, 512)
    assert nearest_bucket((725, 1024), buckets) == (448, 576)
    assert nearest_bucket((1024, 725), buckets) == (576, 448)


@given(picture=SIZES, buckets=st.lists(SIZES, min_size=1, max_size=6))
def test_no_bucket_is_nearer(picture, buckets) -> None:
    def distance(bucket) -> float:
        return abs(math.log(picture[0] / picture[1]) - math.log(bucket[0] / bucket[1]))

    chosen = nearest_bucket(picture, buckets)
    assert chosen in buckets
    assert distance(chosen) <= min(map(distance, buckets)) + 1e-8


@given(picture=SIZES, buckets=st.lists(SIZES, min_size=1, max_size=6))
def test_a_turned_picture_gets_the_turned_aspect(picture, buckets) -> None:
    chosen = nearest_bucket(picture, buckets)
    turned = nearest_bucket(picture[::-1], [one[::-1] for one in buckets])
    assert chosen[0] * turned[0] == pytest.approx(chosen[1] * turned[1])


def test_of_one_aspect_the_nearest_area() -> None:
    assert nearest_bucket((600, 600), [(1024, 1024), (512, 512)]) == (512, 512)
    assert nearest_bucket((1000, 1000), [(512, 512), (1024, 1024)]) == (1024, 1024)


@given(picture=SIZES, size=SIZES)
def test_what_covers_is_no_smaller_and_as_small_as_can_be(picture, size) -> None:
    rows, columns = cover(picture, size)
    assert rows >= size[0]
    assert columns >= size[1]
    assert rows == size[0] or columns == size[1]


@settings(max_examples=50)
@given(picture=SMALL, size=SMALL, seed=st.integers(0, 2**63 - 1), crop=st.booleans(), mirror=st.booleans())
def test_a_frame_has_its_size_and_stays_in_the_picture(picture, size, seed, crop, mirror) -> None:
    config = SizedConfig(size=size, random_crop=crop, mirror=mirror)
    image = torch.rand(3, *picture)
    framed = Framing.drawn(seed, config).apply(image, size)
    assert framed.shape == (3, *size)
    assert 0 <= framed.min() <= framed.max() <= 1


@settings(max_examples=50)
@given(picture=SMALL, size=SMALL)
def test_without_a_seed_the_middle_is_cut_as_fit_image_does(picture, size) -> None:
    image = torch.rand(3, *picture)
    assert torch.equal(Framing().apply(image, size), fit_image(image, size, "crop"))


def test_crops_reach_both_ends_and_mirrors_are_half() -> None:
    image = torch.arange(12.0).div(12).expand(3, 4, 12)
    config = SizedConfig(size=4, random_crop=True, mirror=True)
    drawn = [Framing.drawn(seed, config) for seed in range(400)]
    first = {round(float(one.apply(image, (4, 4)).min()) * 12) for one in drawn}
    assert first == set(range(9))
    assert 160 < sum(one.mirror for one in drawn) < 240


@given(picture=SIZES, area=st.integers(1, 10**6))
def test_an_area_is_a_cap_and_never_enlarges(picture, area) -> None:
    rows, columns = within_area(picture, area)
    assert rows * columns <= area
    assert rows <= picture[0]
    assert columns <= picture[1]
    assert within_area(picture, None) == picture


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8, "buckets": ((8, 8),)}, "one of them"),
        ({"buckets": ((8, 8), (8, 8))}, "twice"),
        ({"random_crop": True}, "without size or buckets"),
    ],
)
def test_options_that_exclude_each_other(options, message) -> None:
    with pytest.raises(ValidationError, match=message):
        SizedConfig(**options)
