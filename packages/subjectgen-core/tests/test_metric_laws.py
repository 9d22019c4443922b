"""The contracts of metrics: those that keep them pass, each that breaks one law fails that law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from subjectgen.core import SHARE, Config, Quantity, Row, Sample
from subjectgen.testing import MetricContract, SetMetricContract


class Brightness:
    """Mean of an image's pixels, and how far it is from what the sample wants."""

    class Config(Config):
        """Nothing to set."""

    scores: Mapping[str, Quantity] = {"brightness": SHARE, "error": Quantity(low=0, high=1, better="lower")}

    def __init__(self, config: Brightness.Config) -> None:
        self.config = config

    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        rows: list[Row] = []
        for sample, image in zip(samples, images, strict=True):
            value, wanted = float(image.double().mean()), sample.fact("wanted")
            rows.append({"brightness": value, "error": abs(value - float(str(wanted)))})
        return rows

    def calibrate(self) -> Mapping[str, float]:
        return {"brightness": 1.0}


class Contrast:
    """How much the images of a set differ in brightness."""

    scores: Mapping[str, Quantity] = {"contrast": SHARE}

    def measure_set(
        self, samples: Sequence[Sample], images: Sequence[Tensor], rows: Sequence[Row]
    ) -> Mapping[str, float]:
        means = [float(image.double().mean()) for image in images]
        return {"contrast": max(means) - min(means)}


def cases_of(*values: float) -> list[tuple[Sample, Tensor]]:
    """Grey images of several sizes."""
    return [
        (Sample(key=f"grey-{place}", facts={"wanted": 1}), torch.full((3, place + 1, 2), value))
        for place, value in enumerate(values)
    ]


class TestBrightness(MetricContract):
    needs = ("wanted",)

    @pytest.fixture
    def metric(self) -> Brightness:
        return Brightness(Brightness.Config())

    @pytest.fixture
    def cases(self) -> list[tuple[Sample, Tensor]]:
        return cases_of(0.1, 0.7, 0.3, 0.9)

    @pytest.fixture
    def known(self) -> tuple[list[tuple[Sample, Tensor]], list[Row]]:
        return cases_of(0, 0.25), [{"brightness": 0.0, "error": 1.0}, {"brightness": 0.25, "error": 0.75}]


class TestContrast(SetMetricContract):
    @pytest.fixture
    def metric(self) -> Contrast:
        return Contrast()

    @pytest.fixture
    def cases(self) -> list[tuple[Sample, Tensor]]:
        return cases_of(0.1, 0.7, 0.3, 0.9)

    @pytest.fixture
    def known(self) -> tuple[list[tuple[Sample, Tensor]], dict[str, float]]:
        return cases_of(0.25, 0.5), {"contrast": 0.25}


# ------------------------------------------------------------------------------------- laws that are broken


class LastOne(Brightness):
    """The row of the last image for all."""

    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        return [super(LastOne, self).measure(samples, images)[-1] for _ in images]


class Sorted(Brightness):
    """Not in the order of the images."""

    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        return sorted(super().measure(samples, images), key=lambda row: row["brightness"] or 0.0)


class PerBatch(Brightness):
    """An image is compared with the others of its batch."""

    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        return [{**row, "brightness": 1.0 / len(images)} for row in super().measure(samples, images)]


class Counts(Brightness):
    """Remembers how often it was asked."""

    asked = 0

    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        self.asked += 1
        return [{**row, "brightness": 1 / self.asked} for row in super().measure(samples, images)]


class Writes(Brightness):
    """Changes the images."""

    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        rows = super().measure(samples, images)
        for image in images:
            image.round_()
        return rows


class Booleans(Brightness):
    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        return [{"brightness": True} for _ in images]


class Unannounced(Brightness):
    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        return [{"darkness": 0.5} for _ in images]


class Beyond(Brightness):
    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        return [{"brightness": 1.5} for _ in images]


class NotANumber(Brightness):
    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        return [{"brightness": float("nan")} for _ in images]


class Guesses(Brightness):
    """Measures samples that do not say what is wanted."""

    def measure(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> Sequence[Row]:
        return super().measure([replace(sample, facts={"wanted": 1}) for sample in samples], images)


class Miscalibrated(Brightness):
    def calibrate(self) -> Mapping[str, float]:
        return {"brightness_judge": 1.0}


METRICS = [
    (LastOne, "order_does_not_matter"),
    (Sorted, "order_does_not_matter"),
    (PerBatch, "batches_do_not_matter"),
    (Counts, "same_question_same_answer"),
    (Writes, "same_question_same_answer"),
    (Booleans, "one_row_per_image"),
    (Unannounced, "one_row_per_image"),
    (Beyond, "one_row_per_image"),
    (NotANumber, "one_row_per_image"),
    (Guesses, "a_fact_that_it_needs_and_that_is_not_there"),
]


@pytest.mark.usefixtures("first_counterexample")  # also where the kit's laws are tried on few examples
@pytest.mark.parametrize(("broken", "law"), METRICS, ids=[cls.__name__ for cls, _ in METRICS])
def test_a_metric_that_breaks_a_law_fails_it(broken: type[Brightness], law: str) -> None:
    check = getattr(TestBrightness(), f"test_{law}")
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(broken(Brightness.Config()), cases_of(0.1, 0.7, 0.3))
    check(Brightness(Brightness.Config()), cases_of(0.1, 0.7, 0.3))


def test_a_calibration_of_other_scores_fails() -> None:
    with pytest.raises(AssertionError):
        MetricContract().test_calibration(Miscalibrated(Brightness.Config()))


class FirstOne(Contrast):
    """A set has no first image."""

    def measure_set(
        self, samples: Sequence[Sample], images: Sequence[Tensor], rows: Sequence[Row]
    ) -> Mapping[str, float]:
        return {"contrast": float(images[0].mean())}


@pytest.mark.usefixtures("first_counterexample")
def test_a_set_metric_with_an_order_fails() -> None:
    cases = cases_of(0.1, 0.7, 0.3)
    with pytest.raises(AssertionError):
        SetMetricContract().test_order_does_not_matter(FirstOne(), cases, [{}] * 3)
