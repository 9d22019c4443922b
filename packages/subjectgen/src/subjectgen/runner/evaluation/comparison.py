"""An experiment in several variants on the same samples and seeds: images, rows and scores in one folder.

Everything is written as it comes. What is there of the same settings is not made again, and a variant that fails
costs no other one anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subjectgen.core import Changes, SubjectgenError
from subjectgen.core.guard import in_one_line
from subjectgen.core.json_files import read_json, write_json
from subjectgen.core.roles import values
from subjectgen.runner.evaluation.cases import Cases
from subjectgen.runner.evaluation.image_store import ImageStore, digest
from subjectgen.runner.evaluation.measure import Metrics
from subjectgen.runner.evaluation.sensitivity import sensitivity
from subjectgen.runner.evaluation.wording import line
from subjectgen.runner.generation.batches import Step
from subjectgen.runner.generation.pipeline import SubjectPipeline, vary
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.identity import identity
from subjectgen.runner.system.settings import ComparisonSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.system.variants import variants

PROBED = 24
"""Samples on which sensitivity is measured."""
SENSITIVITY = "sensitivity.json"
COMPARISON = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Who is told what goes on."""

    say: Callable[[str], None]
    """Takes one line."""
    on_step: Callable[[str, int, Step], None]
    """Takes the variant, the number of batches still to come in it when it began, and each step."""


@dataclass(kw_only=True)
class Compared:
    """What a comparison gives."""

    name: str
    folder: Path
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By variant: ``scores`` (value, interval, n), ``sensitivity``; or ``failed`` and why."""
    calibration: dict[str, float] = field(default_factory=dict)
    """What metrics give to pictures whose truth is known, by score."""


def compare(experiment: Experiment, name: str, folder: Path, *, device: str | None, progress: Progress) -> Compared:
    """Generate every sample under every variant, with the same seeds, and measure it.

    Args:
        experiment: With a comparison of this name.
        name: Of the comparison.
        folder: Where to; may hold what an earlier call made of the same settings.
        device: Where to run.
        progress: Who is told.

    Raises:
        SubjectgenError: What concerns all variants: the data set, a metric, two scores of one name.
    """
    settings, parts = experiment.settings.shown()[name], experiment.parts.comparisons[name]
    cases = Cases(parts.dataset.build())
    cases.write_references(folder)
    metrics = Metrics(parts.metrics, device)
    result = Compared(name=name, folder=folder, calibration=metrics.calibration())
    last: System | None = None
    for variant, changed in list(variants(experiment, name)):
        try:
            last = vary(last, changed) if last else SubjectPipeline.from_experiment(changed, device=device).system
            found = _variant(last, variant, folder / variant, settings, cases, metrics, progress)
        except Exception as error:  # whatever it is, the other variants go on
            said = str(error) if isinstance(error, SubjectgenError) else in_one_line(error)
            found = {"failed": said}
            progress.say(f"{variant}: failed: {said}")
        else:
            progress.say(line(variant, found, result.calibration, settings.headline))
        result.variants[variant] = found
        write_json(folder / COMPARISON, _described(experiment, result))
    return result


def _variant(
    system: System,
    variant: str,
    folder: Path,
    settings: ComparisonSettings,
    cases: Cases,
    metrics: Metrics,
    progress: Progress,
) -> dict[str, Any]:
    image = values(system.experiment.settings.image, Changes.RESULTS)
    depends = {**identity(system), "image": image, "dataset": dict(settings.dataset), "keys": digest(cases.keys)}
    store = ImageStore(folder, depends)
    cases.generate(system, store, settings.batch_size, lambda left, step: progress.on_step(variant, left, step))
    rows = metrics.measure(cases, store)
    found: dict[str, Any] = {"scores": metrics.reduce(rows, cases, store)}
    if settings.sensitivity and len(cases) > 1:
        file = folder / SENSITIVITY
        if not file.is_file():
            probed = range(0, len(cases), max(len(cases) // PROBED, 1))
            shift = sensitivity(
                system,
                [cases[number] for number in probed],
                list(range(len(probed))),
                batch_size=settings.batch_size,
                on_probe=lambda label: progress.say(f"{variant}: sensitivity, {label}"),
            )
            write_json(file, shift)
        shift = read_json(file)
        found |= {"seed_change": shift.pop("seed_change"), "sensitivity": shift}
    return found


def _described(experiment: Experiment, result: Compared) -> dict[str, Any]:
    """What a report needs beside images and rows."""
    return {
        "name": result.name,
        "experiment": experiment.name,
        "description": experiment.settings.description,
        "plugins": experiment.plugins.distributions(),
        "schedule": dict(experiment.settings.schedule),
        "calibration": result.calibration,
        "variants": result.variants,
    }
