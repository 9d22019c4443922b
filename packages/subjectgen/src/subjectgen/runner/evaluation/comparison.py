"""An experiment in several variants on the same samples and seeds: images, rows and scores in one folder.

Everything is written as it comes. What is there of the same settings is not made again, and a variant that fails
costs no other one anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subjectgen.core import InputError, Sample, SubjectgenError
from subjectgen.core.guard import in_one_line
from subjectgen.core.json_files import read_json, write_json
from subjectgen.runner.evaluation.cases import Cases
from subjectgen.runner.evaluation.image_store import ImageStore, depends
from subjectgen.runner.evaluation.measure import Metrics
from subjectgen.runner.evaluation.progress import Progress
from subjectgen.runner.evaluation.rows import subject_of
from subjectgen.runner.evaluation.sensitivity import quantities, sensitivity
from subjectgen.runner.evaluation.statistics import reduced
from subjectgen.runner.evaluation.systems import Systems
from subjectgen.runner.evaluation.wording import line
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.settings import ComparisonSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.system.variants import variants

PROBED = 24
"""Samples on which sensitivity is measured."""
SENSITIVITIES = "sensitivities.json"
COMPARISON = "comparison.json"


@dataclass(kw_only=True)
class Compared:
    """What a comparison gives."""

    name: str
    folder: Path
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By variant: its scores by name, as ``scores.json`` has them; or ``failed`` and why."""
    known_pictures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What metrics give to pictures whose truth is known, by score."""


def compare(experiment: Experiment, name: str, folder: Path, *, systems: Systems, progress: Progress) -> Compared:
    """Generate every sample under every variant, with the same seeds, and measure it.

    Args:
        experiment: With a comparison of this name.
        name: Of the comparison.
        folder: Where to; may hold what an earlier call made of the same settings.
        systems: Builds what runs, where it shall run.
        progress: Who is told.

    Raises:
        SubjectgenError: What concerns all variants: the data set, a metric, two scores of one name.
    """
    settings, parts = experiment.settings.shown()[name], experiment.parts.comparisons[name]
    changed = variants(experiment, name)
    with progress.during(f"{name}: data set and metrics"):
        cases = Cases(parts.dataset.build())
        cases.write_references(folder)
        metrics = Metrics(parts.metrics, systems.device)
        result = Compared(name=name, folder=folder, known_pictures=metrics.known_pictures())
    meanings = _all_quantities(experiment, name, metrics)
    for variant, experiment_ in changed.items():
        try:
            with progress.during(f"{variant}: loading"):
                system = systems.of(experiment_)
            found = _variant(system, variant, folder / variant, settings, cases, metrics, progress)
        except Exception as error:  # whatever it is, the other variants go on
            said = str(error) if isinstance(error, SubjectgenError) else in_one_line(error)
            found = {"failed": said}
            progress.say(f"{variant}: failed: {said}")
        else:
            progress.say(line(variant, found, result.known_pictures, settings.headline))
        result.variants[variant] = found
        write_json(folder / COMPARISON, _described(experiment, result) | {"meanings": meanings})
    return result


def _all_quantities(experiment: Experiment, name: str, metrics: Metrics) -> dict[str, str]:
    """What every score means, those of branches too.

    Raises:
        InputError: A metric gives a score that says what a branch changes.
    """
    found = dict(metrics.scores)
    if experiment.settings.shown()[name].sensitivity:
        ours = quantities(experiment.settings.branches)
        twice = sorted(found.keys() & ours.keys())
        if twice:
            raise InputError(f"comparisons.{name}.sensitivity: a metric gives {twice[0]!r} too; expected false")
        found |= ours
    return {name: quantity.meaning for name, quantity in found.items()}


def _variant(
    system: System,
    variant: str,
    folder: Path,
    settings: ComparisonSettings,
    cases: Cases,
    metrics: Metrics,
    progress: Progress,
) -> dict[str, Any]:
    store = ImageStore(folder, depends(system, settings.dataset, cases.keys))
    cases.generate(system, store, settings.batch_size, lambda left, step: progress.on_step(variant, left, step))
    with progress.during(f"{variant}: measuring"):
        rows = metrics.measure(cases, store)
        found = metrics.reduce(rows, cases, store)
    if settings.sensitivity and len(cases) > 1:
        probed = range(0, len(cases), max(len(cases) // PROBED, 1))
        samples = [cases[number] for number in probed]
        found |= _sensitivities(system, variant, folder / SENSITIVITIES, samples, settings.batch_size, progress)
    return found


def _sensitivities(
    system: System, variant: str, file: Path, samples: Sequence[Sample], batch_size: int, progress: Progress
) -> dict[str, Any]:
    """What each branch changes alone, as scores; measured once."""
    if not file.is_file():
        changes = sensitivity(
            system,
            samples,
            list(range(len(samples))),
            batch_size=batch_size,
            on_probe=lambda label: progress.say(f"{variant}: sensitivity, {label}"),
        )
        write_json(file, changes)
    changes, subjects = read_json(file), [subject_of(sample.key, sample.facts) for sample in samples]
    return {
        name: reduced(changes[name], quantity, subjects=subjects).written()
        for name, quantity in quantities(system.branches).items()
    }


def _described(experiment: Experiment, result: Compared) -> dict[str, Any]:
    """What a report needs beside images and rows."""
    settings = experiment.settings.shown()[result.name]
    return {
        "name": result.name,
        "experiment": experiment.name,
        "description": experiment.settings.description,
        "plugins": experiment.plugins.distributions(),
        "schedule": dict(experiment.settings.schedule),
        "titles": dict(settings.titles),
        "headline": settings.headline,
        "known_pictures": result.known_pictures,
        "variants": result.variants,
    }
