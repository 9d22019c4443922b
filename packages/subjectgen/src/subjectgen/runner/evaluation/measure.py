"""Metrics over stored images: a row per image, kept as it is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from subjectgen.core import Calibrated, InputError, Metric, Part, Quantity, SetMetric
from subjectgen.runner.evaluation.cases import Cases, reference_file
from subjectgen.runner.evaluation.image_store import ImageStore, digest
from subjectgen.runner.evaluation.rows import ScoreRow, append, checked, read
from subjectgen.runner.evaluation.statistics import Reduced, reduce_rows
from subjectgen.runner.system.devices import chosen_device

BATCH = 64
"""Images that a metric gets at once."""


class Metrics:
    """The metrics of an evaluation, built once and put on the device."""

    def __init__(self, parts: Sequence[Part], device: str | None) -> None:
        """Build them.

        Raises:
            InputError: Two of them give a score of one name.
        """
        self._built: list[Any] = [part.build() for part in parts]
        self._names = [part.where for part in parts]
        self.identity = digest([part.describe() for part in parts])
        """Of the metrics and their options: rows of others do not count."""
        self.scores: dict[str, Quantity] = {}
        for where, metric in zip(self._names, self._built, strict=True):
            twice = sorted(self.scores.keys() & metric.scores.keys())
            if twice:
                raise InputError(f"{where}: an earlier metric gives {twice[0]!r} too; leave one out")
            self.scores |= metric.scores
            if isinstance(metric, nn.Module):
                metric.to(chosen_device(device)).eval()

    def known_pictures(self) -> dict[str, dict[str, Any]]:
        """What the metrics give to pictures whose truth is known, by score."""
        found: dict[str, float] = {}
        for metric in self._built:
            if isinstance(metric, Calibrated):
                found |= {name: float(value) for name, value in metric.calibrate().items()}
        return {
            name: {self.scores[name].reduce: value, "unit": self.scores[name].unit, "better": self.scores[name].better}
            for name, value in found.items()
        }

    def measure(self, cases: Cases, store: ImageStore) -> list[ScoreRow]:
        """Rows of all images in the order of the cases; those that the store's folder has are not measured again."""
        known = {(row.key, row.seed): row for row in read(store.folder) if row.metrics == self.identity}
        missing = [number for number, key in enumerate(cases.keys) if (key, number) not in known]
        for start in range(0, len(missing), BATCH):
            rows = list(self._rows(cases, store, missing[start : start + BATCH]))
            append(store.folder, rows)
            known |= {(row.key, row.seed): row for row in rows}
        return [known[key, number] for number, key in enumerate(cases.keys)]

    def reduce(self, rows: Sequence[ScoreRow], cases: Cases, store: ImageStore) -> dict[str, dict[str, Any]]:
        """Every score over all images, those of whole sets too."""
        found = reduce_rows(rows, self.scores)
        sets = [metric for metric in self._built if isinstance(metric, SetMetric)]
        if sets:
            images = [store.read(key, number) for number, key in enumerate(cases.keys)]
            for metric in sets:
                values = metric.measure_set(list(cases), images, [row.scores for row in rows])
                found |= _of_set(metric, values, rows)
        return found

    def _rows(self, cases: Cases, store: ImageStore, numbers: Sequence[int]) -> Iterator[ScoreRow]:
        samples = [cases[number] for number in numbers]
        images = [store.read(cases.keys[number], number) for number in numbers]
        scores: list[dict[str, float | None]] = [{} for _ in numbers]
        for where, metric in zip(self._names, self._built, strict=True):
            if not isinstance(metric, Metric):
                continue
            found = metric.measure(samples, images)
            if len(found) != len(numbers):
                raise InputError(f"{where}: gave {len(found)} rows for {len(numbers)} images; expected one for each")
            for own, row in zip(scores, found, strict=True):
                own.update(checked(row, metric.scores, where))
        for number, sample, row in zip(numbers, samples, scores, strict=True):
            image = str(store.path(sample.key, number).relative_to(store.folder))
            yield ScoreRow(
                key=sample.key,
                seed=number,
                prompt=sample.prompt,
                image=image,
                metrics=self.identity,
                scores=row,
                references=[reference_file(reference) for reference in sample.references],
                facts=dict(sample.facts),
            )


def _of_set(metric: Any, values: Mapping[str, float], rows: Sequence[ScoreRow]) -> dict[str, dict[str, Any]]:
    subjects = len({row.subject for row in rows})
    return {
        name: Reduced(
            value=float(value),
            low=None,
            high=None,
            n=len(rows),
            subjects=subjects,
            missing=0,
            quantity=metric.scores[name],
        ).written()
        for name, value in values.items()
    }
