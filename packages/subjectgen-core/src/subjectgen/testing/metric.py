"""What every metric promises: one with a row per image, and one of a whole set."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, TypeAlias

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from subjectgen.core import Calibrated, InputError, Metric, Quantity, Row, Sample, SetMetric
from subjectgen.testing.base import Contract

Cases: TypeAlias = Sequence[tuple[Sample, Tensor]]

_SETTINGS = settings(deadline=None, max_examples=10)


class MetricContract(Contract):
    """Laws of a metric.

    Give three fixtures: ``metric``; ``cases``, at least three pairs of a sample with a key and an image generated for
    it; ``known``, such pairs with the rows they must give::

        class TestBrightness(MetricContract):
            @pytest.fixture
            def metric(self):
                return Brightness(Brightness.Config())

            @pytest.fixture
            def known(self):
                return [(Sample(key="black"), torch.zeros(3, 4, 4))], [{"brightness": 0.0}]

    A metric with a network is an ``nn.Module`` whose submodule the network is: the runner moves it to the device, and
    ``measure`` takes images from wherever they are to where its parameters are. Rows are plain numbers.
    """

    tolerance: ClassVar[float] = 0.0
    """How far a row may differ, relatively and absolutely, when other images are measured with it. 0 is bit for bit;
    networks round otherwise in batches of other sizes, about 1e-6 of their values in 32 bits."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Facts without which it cannot measure."""

    def test_is_a_metric(self, metric: Metric) -> None:
        """It has every member of the protocol, and says of each score what it is."""
        assert isinstance(metric, Metric)
        assert metric.scores
        for name, quantity in metric.scores.items():
            assert name.isidentifier()
            assert isinstance(quantity, Quantity)

    def test_known_answer(self, metric: Metric, known: tuple[Cases, Sequence[Row]]) -> None:
        """On a case small enough for pencil and paper it gives the known rows."""
        cases, rows = known
        measured = _measure(metric, cases)
        assert len(measured) == len(rows)
        for mine, expected in zip(measured, rows, strict=True):
            assert dict(mine) == pytest.approx(dict(expected), rel=1e-5, abs=1e-5)

    def test_one_row_per_image(self, metric: Metric, cases: Cases) -> None:
        """Rows hold scores that it announced, as floats within their limits, or ``None``; no images, no rows."""
        rows = _measure(metric, cases)
        assert len(rows) == len(cases)
        for row in rows:
            assert row.keys() <= metric.scores.keys()
            for name, value in row.items():
                _assert_within(name, value, metric.scores[name])
        assert list(metric.measure([], [])) == []

    def test_same_question_same_answer(self, metric: Metric, cases: Cases) -> None:
        """It keeps nothing of what it measured, draws nothing, and leaves images as they are."""
        before = [image.clone() for _, image in cases]
        first = _measure(metric, cases)
        _measure(metric, cases[:1])
        assert [dict(row) for row in _measure(metric, cases)] == [dict(row) for row in first]
        assert all(torch.equal(image, kept) for (_, image), kept in zip(cases, before, strict=True))

    def test_order_does_not_matter(self, metric: Metric, cases: Cases) -> None:
        """Images in another order give the same rows in that order."""
        rows = _measure(metric, cases)

        @_SETTINGS
        @given(order=st.permutations(range(len(cases))))
        def law(order: list[int]) -> None:
            self._assert_same(_measure(metric, [cases[i] for i in order]), [rows[i] for i in order])

        law()

    def test_batches_do_not_matter(self, metric: Metric, cases: Cases) -> None:
        """Batches of any size give the rows of all at once."""
        rows = _measure(metric, cases)

        @_SETTINGS
        @given(size=st.integers(1, len(cases)))
        def law(size: int) -> None:
            batches = [cases[start : start + size] for start in range(0, len(cases), size)]
            self._assert_same([row for batch in batches for row in _measure(metric, batch)], rows)

        law()

    def test_its_config_makes_it_again(self, metric: Metric, cases: Cases) -> None:
        """A copy built elsewhere from its ``config``, sent as bytes, gives the same rows."""
        config = getattr(metric, "config", None)
        if config is None:
            pytest.skip("it keeps no config")
        copied = pickle.loads(pickle.dumps(config))  # noqa: S301  # its own bytes
        assert copied == config
        again: Callable[..., Metric] = type(metric)
        self._assert_same(_measure(again(copied), cases), _measure(metric, cases))

    def test_a_fact_that_it_needs_and_that_is_not_there(self, metric: Metric, cases: Cases) -> None:
        """It says which fact of which sample is missing."""
        for name in self.needs:
            (sample, image), *_ = cases
            lacking = replace(sample, facts={key: value for key, value in sample.facts.items() if key != name})
            with pytest.raises(InputError) as caught:
                metric.measure([lacking], [image])
            assert repr(name) in str(caught.value)
            assert sample.key in str(caught.value)

    def test_calibration(self, metric: Metric) -> None:
        """If it is calibrated: numbers for scores of its own, within their limits, the same when asked again."""
        if not isinstance(metric, Calibrated):
            pytest.skip("it is not calibrated")
        known = metric.calibrate()
        assert known.keys() <= metric.scores.keys()
        for name, value in known.items():
            assert value is not None
            _assert_within(name, value, metric.scores[name])
        assert dict(metric.calibrate()) == dict(known)

    def _assert_same(self, actual: Sequence[Row], expected: Sequence[Row]) -> None:
        assert len(actual) == len(expected)
        for mine, other in zip(actual, expected, strict=True):
            assert mine.keys() == other.keys()
            assert dict(mine) == pytest.approx(dict(other), rel=self.tolerance, abs=self.tolerance)


class SetMetricContract(Contract):
    """Laws of a metric of a whole set.

    Give the fixtures ``metric``, ``cases`` and ``known``: cases with the numbers they must give. Override ``rows`` if
    it reads what other metrics said.
    """

    tolerance: ClassVar[float] = 1e-5
    """Relative and absolute; sums in another order round differently."""

    @pytest.fixture
    def rows(self, cases: Cases) -> Sequence[Row]:
        """What other metrics said of each case: nothing."""
        return [{} for _ in cases]

    def test_is_a_set_metric(self, metric: SetMetric) -> None:
        """It has every member of the protocol, and says of each score what it is."""
        assert isinstance(metric, SetMetric)
        assert metric.scores
        assert all(isinstance(quantity, Quantity) for quantity in metric.scores.values())

    def test_known_answer(self, metric: SetMetric, known: tuple[Cases, Mapping[str, float]]) -> None:
        """On a set small enough for pencil and paper it gives the known numbers."""
        cases, numbers = known
        measured = metric.measure_set([s for s, _ in cases], [image for _, image in cases], [{} for _ in cases])
        assert dict(measured) == pytest.approx(dict(numbers), rel=1e-5, abs=1e-5)

    def test_one_number_per_score(self, metric: SetMetric, cases: Cases, rows: Sequence[Row]) -> None:
        """Each of its scores, as a float within its limits; the same when asked again."""
        numbers = metric.measure_set([s for s, _ in cases], [image for _, image in cases], rows)
        assert numbers.keys() == metric.scores.keys()
        for name, value in numbers.items():
            assert value is not None
            _assert_within(name, value, metric.scores[name])
        assert dict(metric.measure_set([s for s, _ in cases], [i for _, i in cases], rows)) == dict(numbers)

    def test_order_does_not_matter(self, metric: SetMetric, cases: Cases, rows: Sequence[Row]) -> None:
        """A set has no order."""
        whole = dict(metric.measure_set([s for s, _ in cases], [image for _, image in cases], rows))

        @_SETTINGS
        @given(order=st.permutations(range(len(cases))))
        def law(order: list[int]) -> None:
            samples, images = [cases[i][0] for i in order], [cases[i][1] for i in order]
            numbers = metric.measure_set(samples, images, [rows[i] for i in order])
            assert dict(numbers) == pytest.approx(whole, rel=self.tolerance, abs=self.tolerance)

        law()


def _measure(metric: Metric, cases: Cases) -> Sequence[Row]:
    return metric.measure([sample for sample, _ in cases], [image for _, image in cases])


def _assert_within(name: str, value: float | None, quantity: Quantity) -> None:
    if value is None:
        return
    assert type(value) is float, f"{name}: got {value!r}; expected a float"
    assert math.isfinite(value), f"{name}: got {value}; expected a finite number, or None"
    assert quantity.low is None or value >= quantity.low, f"{name}: {value} is below {quantity.low}"
    assert quantity.high is None or value <= quantity.high, f"{name}: {value} is above {quantity.high}"
