"""One experiment in several variants on the same samples and seeds: images and scores side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError, Sample, nearest
from subjectgen.core.config import merge
from subjectgen.runner import sampling
from subjectgen.runner.experiment import ComparisonSettings, Experiment
from subjectgen.runner.generating import step_progress
from subjectgen.runner.pipeline import SubjectPipeline

PROBED = 24
"""Samples on which sensitivity is measured."""
SEED_STEP = 10_000


@dataclass(kw_only=True)
class Compared:
    """What a comparison gives."""

    name: str
    samples: list[Sample]
    images: dict[str, Float[Tensor, "n 3 h w"]] = field(default_factory=dict)
    """By variant, in the order of the samples."""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By variant."""


def variants(
    pipeline: SubjectPipeline, changes: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, SubjectPipeline]]:
    """The experiment with each set of changes, one after another; what differs in its schedule alone is not rebuilt."""
    settings = pipeline.system.experiment.settings
    for name, change in changes.items():
        if set(change) <= {"schedule"}:
            pipeline.system.use_schedule(merge(settings.schedule, change.get("schedule", {})))
            yield name, pipeline
            pipeline.system.use_schedule(settings.schedule)
        else:
            yield name, _changed(pipeline, change)


def compare(
    pipeline: SubjectPipeline, name: str, settings: ComparisonSettings, *, say: Callable[[str], None]
) -> Compared:
    """Generate every sample under every variant, with the same seeds, and score it."""
    plugins, place = pipeline.system.plugins, pipeline.system.experiment.place()
    where = f"comparisons.{name}"
    dataset = plugins.build("datasets", settings.dataset, where=f"{where}.dataset", **place)
    result = Compared(name=name, samples=[dataset[index] for index in range(len(dataset))])
    seeds = list(range(len(result.samples)))
    judges: dict[int, Mapping[str, float]] = {}
    for variant, changed in variants(pipeline, settings.all_changes()):
        with step_progress(variant) as on_step:
            on_step.expect(-(-len(seeds) // settings.batch_size))
            images = changed.generate(result.samples, seeds, batch_size=settings.batch_size, on_step=on_step).tensors
        scores: dict[str, Any] = {}
        for number, spec in enumerate(settings.metrics):
            metric = plugins.build("metrics", spec, where=f"{where}.metrics.{number}", **place)
            metric.update(result.samples, list(images))
            if number not in judges:  # a judge is the same for all variants
                judges[number] = metric.judge_accuracy() if hasattr(metric, "judge_accuracy") else {}
            found = {**metric.compute(), **judges[number]}
            twice = sorted(scores.keys() & found.keys())
            if twice:
                raise InputError(f"{where}.metrics.{number}: an earlier metric gives {twice[0]!r} too; leave one out")
            scores |= found
        if settings.sensitivity and len(seeds) > 1:
            shift = sensitivity(changed, result.samples[:: max(len(seeds) // PROBED, 1)], seeds)
            scores |= {"seed_change": shift.pop("seed_change"), "sensitivity": shift}
        result.images[variant], result.scores[variant] = images, scores
        say(line(variant, scores, settings.headline))
    return result


def sensitivity(pipeline: SubjectPipeline, samples: Sequence[Sample], seeds: Sequence[int]) -> dict[str, float]:
    """Root-mean-square change of the image when one branch alone sees another sample's references; by branch.

    0 means that the branch is ignored. ``seed_change`` is what another starting noise changes, for scale.
    """
    half, seeds = len(samples) // 2, seeds[: len(samples)]
    swapped = [
        replace(one, references=_exchanged(one, other))
        for one, other in zip(samples, [*samples[half:], *samples[:half]], strict=True)
    ]
    plain = _generate(pipeline, samples, seeds, {})
    changes = {name: _generate(pipeline, samples, seeds, {name: swapped}) for name in pipeline.system.branches}
    changes["seed_change"] = _generate(pipeline, samples, [seed + SEED_STEP for seed in seeds], {})
    return {name: float((changed - plain).square().mean().sqrt()) for name, changed in changes.items()}


def line(name: str, scores: Mapping[str, Any], headline: Sequence[str] | None = None) -> str:
    """One variant in words: chosen scores, or those for which a judge's own accuracy is known."""
    judged = {key.partition("_")[0]: key for key in scores if key.endswith("_judge")}
    chosen = headline or [key for key in scores if key.partition("_")[0] in judged and key not in judged.values()]
    parts = []
    for key in chosen:
        if key not in scores:  # hours of pictures are not lost for a name that is not there
            parts.append(f"no score {key!r}{nearest(key, scores)}")
            continue
        judge = judged.get(key.partition("_")[0])
        share = not key.endswith("_difference")
        value = f"{scores[key]:.1%}" if share else f"{scores[key]:.1f}"
        parts.append(f"{key} {value}" + (f" (judge {scores[judge]:.1%})" if judge and share else ""))
    changes = ", ".join(f"{branch} {value:.3f}" for branch, value in scores.get("sensitivity", {}).items())
    return f"{name}: {', '.join(parts)}{f'; sensitivity {changes}' if changes else ''}"


def _changed(pipeline: SubjectPipeline, change: Mapping[str, Any]) -> SubjectPipeline:
    """The experiment with some values changed and the same trained weights; parts that stay the same are shared."""
    system = pipeline.system
    loaded = replace(system.experiment.loaded, values=merge(system.experiment.values, change))
    return SubjectPipeline.from_experiment(
        Experiment(loaded),
        device=str(system.device),
        plugins=system.plugins,
        trained=system.trained,
        reuse=system if system.trained else None,  # untrained parts are drawn in the order in which all are built
    )


def _exchanged(one: Sample, other: Sample) -> tuple[Any, ...]:
    """The other's pictures in this one's places."""
    return tuple(
        replace(theirs, region_mask=own.region_mask, weight=own.weight)
        for own, theirs in zip(one.references, other.references, strict=False)
    )


def _generate(
    pipeline: SubjectPipeline,
    samples: Sequence[Sample],
    seeds: Sequence[int],
    instead: Mapping[str, Sequence[Sample]],
) -> Float[Tensor, "b 3 h w"]:
    system = pipeline.system
    size = system.experiment.settings.image
    start = sampling.noise(seeds, system.latent_shape(size.height, size.width))
    return system.autoencoder.decode(sampling.sample(system, samples, start, instead=instead)).cpu()
