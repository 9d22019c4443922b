"""Everything ``subjectgen plan`` says, as one tree of plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from subjectgen.core import InputError
from subjectgen.runner.planning.accelerators import Accelerator, chosen_accelerators
from subjectgen.runner.planning.blueprint import build_blueprint
from subjectgen.runner.planning.dry_run import dry_run
from subjectgen.runner.planning.memory import (
    RESERVED,
    Activations,
    Weights,
    inference_rows,
)
from subjectgen.runner.planning.passes import BackbonePass, Passes, Stage, request
from subjectgen.runner.planning.training import training_flops, training_memory
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.residency import precision
from subjectgen.runner.system.system import System


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is planned for."""

    references: int = 1
    reference_size: int = 512
    """Pixels of a square reference."""
    prompt_tokens: int = 128
    batch: int = 1
    """Images generated at once; the batch of training is the experiment's."""
    utilisation: float = 0.5
    """Share of an accelerator's peak that is reached."""
    accelerators: Sequence[str] = ()
    """Names; empty: all."""

    def check(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            InputError: Names the option.
        """
        for name, least in (("references", 0), ("reference_size", 1), ("prompt_tokens", 1), ("batch", 1)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise InputError(f"--{option}: got {getattr(self, name)}; expected at least {least}")
        if not 0 < self.utilisation <= 1:
            raise InputError(f"--utilisation: got {self.utilisation:g}; expected a share in (0, 1]")


def estimate(experiment: Experiment, question: Question) -> dict[str, Any]:
    """Build the experiment on shapes and add up.

    Returns:
        Plain values: ``parts``, ``encoders``, ``conditioning``, ``stages``, ``image``, ``training``, ``memory``,
        ``time``; counts, operations, bytes and seconds.

    Raises:
        SubjectgenError: A mistake in the file or the request, or a checkpoint whose sizes are not known.
    """
    question.check()
    cards = chosen_accelerators(question.accelerators)
    system = build_blueprint(experiment)
    image = experiment.settings.image
    sample = request(question.prompt_tokens, question.references, question.reference_size)
    passes = Passes(system, sample, (image.height, image.width))
    dtype = precision(experiment.settings.memory, torch.device("cuda"))
    weights, stages = Weights.of(system, dtype), passes.stages()
    decoding = _decoding(system, (image.height, image.width))
    costs = _image_costs(passes, stages, decoding["flops"])
    training = training_flops(system, passes)
    return {
        "experiment": experiment.name,
        "request": {**asdict(question), "height": image.height, "width": image.width},
        "parts": system.describe(),
        "encoders": _encoders(system),
        "conditioning": _conditioning(passes),
        "stages": [_stage(stage) for stage in stages],
        "image": costs,
        "training": training,
        "memory": _generating(passes, stages, weights, dtype, question.batch, decoding["peak_bytes"])
        | training_memory(system, passes, stages),
        "time": [_times(card, question, costs, stages, weights, training) for card in cards],
    }


# ---------------------------------------------------------------------------------------------------- generating


def _encoders(system: System) -> dict[str, Any]:
    return {name: {"states": b.encoder.depth, "width": b.encoder.width} for name, b in system.branches.items()}


def _conditioning(passes: Passes) -> dict[str, Any]:
    return {
        name: {
            "encoder_flops": sum(made.encoder.flops for made in found),
            "aggregator_flops": sum(made.aggregator.flops for made in found),
            "feature_bytes": max((made.feature_bytes for made in found), default=0),
        }
        for name, found in passes.conditioned().items()
    }


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "steps": stage.steps,
        "positive": _pass(stage.positive),
        "negative": None if stage.negative is None else _pass(stage.negative),
        "one_batch": len(stage.passes) > len(stage.calls),
        "step_flops": sum(one.flops for one in stage.passes),
        "step_flops_with_cache": sum(one.cached_flops for one in stage.passes),
    }


def _pass(one: BackbonePass) -> dict[str, Any]:
    tokens = {"context": one.tokens.context, "target": one.tokens.target, "references": one.tokens.references}
    return {"branches": list(one.branches), "tokens": tokens, "flops": one.flops}


def _image_costs(passes: Passes, stages: list[Stage], decoding: int) -> dict[str, int]:
    extraction = passes.extraction if passes.runs.isolated else 0
    denoising = extraction + sum(stage.steps * one.flops for stage in stages for one in stage.passes)
    adapters = sum(stage.steps * one.step.adapter for stage in stages for one in stage.passes)
    cached = passes.extraction + sum(stage.steps * one.cached_flops for stage in stages for one in stage.passes)
    once = sum(row["encoder_flops"] + row["aggregator_flops"] for row in _conditioning(passes).values())
    once += passes.injection
    return {
        "conditioning_flops": once,
        "denoising_flops": denoising,
        "denoising_flops_merged": denoising - adapters,
        "denoising_flops_with_cache": cached,
        "cache_flops": passes.extraction,
        "decoding_flops": decoding,
        "flops": once + denoising + decoding,
    }


def _decoding(system: System, size: tuple[int, int]) -> dict[str, int]:
    channels, rows, columns = system.latent_shape(*size)
    with torch.no_grad(), dry_run(system.autoencoder) as cost:
        system.autoencoder.decode(torch.empty(1, channels, rows, columns, device="meta"))
    return {"flops": cost.flops, "peak_bytes": cost.peak_bytes}


# -------------------------------------------------------------------------------------------------------- memory


def _generating(
    passes: Passes, stages: list[Stage], weights: Weights, dtype: torch.dtype | None, batch: int, decoding: int
) -> dict[str, Any]:
    made = [one for found in passes.conditioned().values() for one in found]
    calls = [(tokens, count * batch) for stage in stages for tokens, count in stage.calls]
    sampling = passes.runs.sampling(calls, dtype)
    modulation = weights.backbone["none"].modulation / max(passes.runs.width, 1)
    rows = batch * sum(stage.steps * len(stage.passes) for stage in stages)
    runs = Activations(
        encoding=max(max(one.encoder.peak_bytes, one.aggregator.peak_bytes) + one.feature_bytes for one in made),
        denoising=sampling.peak_bytes + batch * passes.injected_bytes,
        decoding=batch * decoding,
        modulation=rows * modulation,
    )
    found = inference_rows(weights, runs, passes.system.experiment.settings.memory)
    return {
        "reserved_bytes": RESERVED,
        "weights_bytes": asdict(weights),
        "activation_bytes": asdict(runs),
        "reference_cache_bytes": sampling.cache_bytes,
        "as_asked": asdict(found[0]),
        "inference": [asdict(row) for row in found],
    }


# ---------------------------------------------------------------------------------------------------------- time


def _times(
    card: Accelerator,
    question: Question,
    costs: dict[str, int],
    stages: list[Stage],
    weights: Weights,
    training: dict[str, Any] | None,
) -> dict[str, Any]:
    def seconds(flops: float, moved: float) -> float:
        return card.seconds(flops, moved, question.utilisation)

    moved = weights.backbone["none"].whole
    steps = {stage.name: seconds(question.batch * sum(p.flops for p in stage.passes), moved) for stage in stages}
    once = seconds(costs["conditioning_flops"], weights.encoders)
    decode = seconds(question.batch * costs["decoding_flops"], weights.others)
    denoise = sum(steps[stage.name] * stage.steps for stage in stages)
    row: dict[str, Any] = {**asdict(card), "utilisation": question.utilisation, "step_seconds": steps}
    row["batch_seconds"] = once + denoise + decode
    row["image_seconds"] = row["batch_seconds"] / question.batch
    if training is not None:
        batch = training["batch"]
        way = training["recomputed"]
        each = [seconds(batch * phase["flops_per_sample"][way], moved) for phase in training["phases"]]
        row["training_step_seconds"] = each
        hours = sum(t * phase["steps"] for t, phase in zip(each, training["phases"], strict=True)) / 3600
        row["training_hours"] = hours
    return row
