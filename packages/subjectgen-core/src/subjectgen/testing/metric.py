"""What every metric promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import pytest
from hypothesis import given, settings, strategies as st
from torch import Tensor

from subjectgen.core import Metric, Sample
from subjectgen.testing.base import Contract

NewMetric: TypeAlias = Callable[[], Metric]
Cases: TypeAlias = Sequence[tuple[Sample, Tensor]]

_SETTINGS = settings(deadline=None, max_examples=15)


class MetricContract(Contract):
    """Laws of a metric.

    Give three fixtures: ``new_metric``, a function that makes a fresh one; ``cases``, at least two pairs of a sample
    and an image generated for it; ``known``, such pairs with the scores they must give::

        class TestBrightness(MetricContract):
            @pytest.fixture
            def new_metric(self):
                return lambda: Brightness(Brightness.Config())

            @pytest.fixture
            def known(self):
                return [(Sample(), torch.zeros(3, 4, 4)), (Sample(), torch.ones(3, 4, 4))], {"brightness": 0.5}
    """

    tolerance: float = 1e-5
    """Relative and absolute; sums in another order round differently."""

    def test_is_a_metric(self, new_metric: NewMetric) -> None:
        """It has every member of the protocol."""
        assert isinstance(new_metric(), Metric)

    def test_known_answer(self, new_metric: NewMetric, known: tuple[Cases, Mapping[str, float]]) -> None:
        """On a case small enough for pencil and paper it gives the known scores."""
        cases, scores = known
        self._assert_same(_scores(new_metric, cases), scores)

    def test_scores_are_named_numbers(self, new_metric: NewMetric, cases: Cases) -> None:
        """At least one score, names are text, values are plain floats, and asking twice changes nothing."""
        metric = new_metric()
        _update(metric, cases)
        scores = metric.compute()
        assert scores
        assert all(isinstance(name, str) and isinstance(value, float) for name, value in scores.items())
        self._assert_same(metric.compute(), scores)

    def test_order_does_not_matter(self, new_metric: NewMetric, cases: Cases) -> None:
        """Any order of the same cases gives the same scores."""
        whole = _scores(new_metric, cases)

        @_SETTINGS
        @given(order=st.permutations(range(len(cases))))
        def law(order: list[int]) -> None:
            self._assert_same(_scores(new_metric, [cases[index] for index in order]), whole)

        law()

    def test_batches_do_not_matter(self, new_metric: NewMetric, cases: Cases) -> None:
        """One case at a time gives the same scores as all at once."""
        metric = new_metric()
        for case in cases:
            _update(metric, [case])
        self._assert_same(metric.compute(), _scores(new_metric, cases))

    def test_merged_parts_equal_the_whole(self, new_metric: NewMetric, cases: Cases) -> None:
        """Two metrics that saw a part each, one perhaps nothing, merge to one that saw all."""
        whole = _scores(new_metric, cases)

        @_SETTINGS
        @given(cut=st.integers(0, len(cases)))
        def law(cut: int) -> None:
            left, right = new_metric(), new_metric()
            _update(left, cases[:cut])
            _update(right, cases[cut:])
            left.merge(right)
            self._assert_same(left.compute(), whole)

        law()

    def _assert_same(self, actual: Mapping[str, float], expected: Mapping[str, float]) -> None:
        assert dict(actual) == pytest.approx(dict(expected), rel=self.tolerance, abs=self.tolerance, nan_ok=True)


def _update(metric: Metric, cases: Cases) -> None:
    if cases:
        metric.update([sample for sample, _ in cases], [image for _, image in cases])


def _scores(new_metric: NewMetric, cases: Cases) -> Mapping[str, float]:
    metric = new_metric()
    _update(metric, cases)
    return metric.compute()
