"""An experiment in several variants on the same samples and seeds: images, rows and scores in one folder.

Everything is written as it comes. What is there of the same settings is not made again, and a variant that fails costs no
other one anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subjectgen.core import SubjectgenError, nearest
from subjectgen.core.guard import in_one_line
from subjectgen.core.json_files import read_json, write_json
from subjectgen.runner.evaluation.cases import Cases
from subjectgen.runner.evaluation.image_store import ImageStore
from subjectgen.runner.evaluation.measure import Metrics
from subjectgen.runner.evaluation.sensitivity import sensitivity
from subjectgen.runner.evaluation.identity import settings_of
from subjectgen.runner.generation.batches import Step
from subjectgen.runner.generation.pipeline import SubjectPipeline, vary
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.settings import ComparisonSettings
from subjectgen.runner.system.system import System

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
    variants = dict(variants_of(experiment, name))
    cases = Cases(parts.dataset.build())
    metrics = Metrics(parts.metrics, device)
    result = Compared(name=name, folder=folder, calibration=metrics.calibration())
    last: System | None = None
    for variant, changed in variants.items():
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


def variants_of(experiment: Experiment, name: str) -> Iterator[tuple[str, Experiment]]:
    """Each variant of a comparison as an experiment.

    Raises:
        ConfigError: A variant has mistakes; names file, line and key in the variant.
    """
    settings = experiment.settings.shown()[name]
    for variant, change in settings.all_changes().items():
        where = f"comparisons.{name}.variants.{variant}"
        yield variant, experiment.changed({**change, "comparisons": {}}, where=where)


def _variant(
    system: System,
    variant: str,
    folder: Path,
    settings: ComparisonSettings,
    cases: Cases,
    metrics: Metrics,
    progress: Progress,
) -> dict[str, Any]:
    store = ImageStore(folder, settings_of(system, cases, settings))
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


def line(
    variant: str, found: Mapping[str, Any], calibration: Mapping[str, float], headline: tuple[str, ...] | None = None
) -> str:
    """One variant in words: chosen scores, or those that are calibrated, each with its interval."""
    scores = found["scores"]
    chosen = headline or tuple(name for name in scores if name in calibration) or tuple(scores)
    parts = [_score(name, scores, calibration) for name in chosen]
    changes = ", ".join(f"{branch} {value:.3f}" for branch, value in found.get("sensitivity", {}).items())
    return f"{variant}: {', '.join(parts)}{f'; sensitivity {changes}' if changes else ''}"


def _score(name: str, scores: Mapping[str, Any], calibration: Mapping[str, float]) -> str:
    if name not in scores:  # hours of pictures are not lost for a name that is not there
        return f"no score {name!r}{nearest(name, scores)}"
    score = scores[name]
    if score["value"] is None:
        return f"{name}: none of {score['missing']} could be measured"
    text = f"{name} {shown(score['value'], score['unit'])}"
    if score["low"] is not None:
        text += f" [{shown(score['low'], score['unit'])}, {shown(score['high'], score['unit'])}]"
    if name in calibration:
        text += f" (on known pictures {shown(calibration[name], score['unit'])})"
    return text + (f" ({score['missing']} not measured)" if score["missing"] else "")


def shown(value: float, unit: str) -> str:
    """A number as people read it: shares in percent, others with their unit."""
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:.1f} {unit}" if unit == "degrees" else f"{value:.3f}{f' {unit}' if unit else ''}"


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
