"""Scores of many images: values that can be written down, and intervals of subjects, not of images."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from subjectgen.core import Quantity
from subjectgen.runner.evaluation.rows import ScoreRow, subject_of
from subjectgen.runner.evaluation.statistics import RESAMPLES, SEED, reduce_rows, reduced

MEAN, MEDIAN = Quantity(), Quantity(reduce="median")
STATISTICS = pytest.mark.parametrize(("quantity", "statistic"), [(MEAN, np.mean), (MEDIAN, np.median)])


def alone(values: list[float | None], quantity: Quantity = MEAN):
    """Each image shows somebody else."""
    return reduced(values, quantity, subjects=[f"toy-{number}" for number in range(len(values))])


def test_numbers_say_on_how_many_images_they_stand() -> None:
    found = alone([1.0, 0.0, 1.0, None])
    assert (found.value, found.n, found.subjects, found.missing) == (pytest.approx(2 / 3), 3, 3, 1)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 2 / 3 < found.high
    nothing = alone([None, None])
    assert (nothing.value, nothing.n, nothing.subjects, nothing.missing, nothing.low) == (None, 0, 0, 2, None)
    assert alone([0.0, 0.0, 9.0], MEDIAN).value == 0.0


def test_one_subject_has_no_interval_however_many_images_it_has() -> None:
    found = reduced([0.5, 0.7, 0.9], MEAN, subjects=["toy"] * 3)
    assert (found.value, found.n, found.subjects, found.low) == (pytest.approx(0.7), 3, 1, None)


@STATISTICS
@pytest.mark.parametrize("size", [2, 36, 37])
def test_one_image_of_each_subject_gives_the_plain_percentile_bootstrap(
    quantity: Quantity, statistic, size: int
) -> None:
    values = np.random.default_rng(5).normal(size=size)
    found = alone(values.tolist(), quantity)
    known = bootstrap(
        (values,), statistic, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(SEED)
    ).confidence_interval
    assert (found.low, found.high) == (pytest.approx(known.low, abs=1e-12), pytest.approx(known.high, abs=1e-12))


@STATISTICS
@pytest.mark.parametrize("copies", [2, 7])
def test_copies_of_an_image_say_nothing_new(quantity: Quantity, statistic, copies: int) -> None:
    """With m equal images of each subject, the interval is that of the subjects, not sqrt(m) times narrower."""
    values = np.random.default_rng(6).normal(size=64)
    once = alone(values.tolist(), quantity)
    subjects = [f"toy-{number}" for number in range(64) for _ in range(copies)]
    found = reduced(np.repeat(values, copies).tolist(), quantity, subjects=subjects)
    assert (found.low, found.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert (found.n, found.subjects) == (64 * copies, 64)


def test_a_mean_of_copies_has_the_interval_of_the_textbook() -> None:
    values = np.random.default_rng(7).normal(size=400)
    found = reduced(
        np.repeat(values, 4).tolist(), MEAN, subjects=[str(number) for number in range(400) for _ in "abcd"]
    )
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.06)


@STATISTICS
def test_images_of_the_drawn_subjects_are_pooled(quantity: Quantity, statistic) -> None:
    """Subjects with other numbers of images: written down once more, one resample at a time."""
    draw = np.random.default_rng(8)
    images = [draw.normal(loc=number, size=size) for number, size in enumerate([1, 5, 2, 9, 1, 4, 3])]
    values = np.concatenate(images)
    subjects = [f"toy-{number}" for number, own in enumerate(images) for _ in own]
    found = reduced(values.tolist(), quantity, subjects=subjects)
    chosen = np.random.default_rng(SEED).integers(0, len(images), (RESAMPLES, len(images)))
    pooled = [statistic(np.concatenate([images[number] for number in row])) for row in chosen]
    assert (found.low, found.high) == tuple(pytest.approx(end) for end in np.percentile(pooled, [2.5, 97.5]))


def test_what_could_not_be_measured_is_in_no_resample() -> None:
    values: list[float | None] = [1.0, 2.0, None, 3.0, None, None, 5.0]
    subjects = ["a", "a", "b", "c", "c", "d", "e"]
    known = reduced([1.0, 2.0, 3.0, 5.0], MEAN, subjects=["a", "a", "c", "e"])
    found = reduced(values, MEAN, subjects=subjects)
    assert (found.low, found.high, found.n, found.subjects) == (known.low, known.high, 4, 3)
    assert found.missing == 3


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Images of one subject share what is particular about it; as if they were independent, half of them miss."""
    draw, inside, apart = np.random.default_rng(0), 0, 0
    for _ in range(100):
        values = (draw.normal(size=(40, 1)) + 0.3 * draw.normal(size=(40, 6))).ravel().tolist()
        found = reduced(values, MEAN, subjects=[str(number // 6) for number in range(240)])
        naive = alone(values)
        assert found.low is not None
        assert found.high is not None
        assert naive.low is not None
        assert naive.high is not None
        inside += found.low < 0 < found.high
        apart += naive.low < 0 < naive.high
    assert inside >= 88
    assert apart < 70


def test_the_same_scores_have_the_same_interval_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large sets are resampled in pieces that fit into memory."""
    from subjectgen.runner.evaluation import statistics

    values, subjects = np.random.default_rng(9).normal(size=60).tolist(), [str(number // 3) for number in range(60)]
    whole = reduced(values, MEDIAN, subjects=subjects)
    monkeypatch.setattr(statistics, "AT_ONCE", 1000)
    assert reduced(values, MEDIAN, subjects=subjects) == whole


@pytest.mark.parametrize(
    ("facts", "subject"),
    [
        ({"subject": "toy-003", "scene": "snow"}, "toy-003"),
        ({"subjects": ["toy-007", "toy-003"]}, "toy-003 + toy-007"),
        ({"subject": 3}, "3"),
        ({"subject": None, "subjects": []}, "key-1"),
        ({}, "key-1"),
    ],
)
def test_whom_a_sample_shows(facts: dict, subject: str) -> None:
    assert subject_of("key-1", facts) == subject


def test_rows_are_drawn_by_the_subjects_of_their_samples() -> None:
    def row(number: int, facts: dict) -> ScoreRow:
        scores = {"s": float(number % 4 < 2)}
        return ScoreRow(key=f"k{number}", seed=number, prompt="", image="", metrics="", scores=scores, facts=facts)

    apart = reduce_rows([row(number, {}) for number in range(40)], {"s": MEAN})["s"]
    shared = reduce_rows([row(number, {"subject": number // 20}) for number in range(40)], {"s": MEDIAN})["s"]
    assert (apart["n"], apart["subjects"], next(iter(apart))) == (40, 40, "mean")
    assert (shared["n"], shared["subjects"], next(iter(shared))) == (40, 2, "median")
