"""What training costs: how often each stage is drawn, operations per sample, memory and the largest micro-batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import torch

from subjectgen.core import ActiveBranches, Checkpoints, Schedule
from subjectgen.runner.planning.dry_run import dry_run
from subjectgen.runner.planning.memory import checkpointed_bytes, training_rows, training_static
from subjectgen.runner.planning.passes import Passes, Stage
from subjectgen.runner.system.system import System
from subjectgen.runner.training.phases import phase_schedule

_DRAWS = 4096
"""Timesteps drawn to know how often training visits each stage."""
_TRAINING = {
    "false": "hardware_training",
    "selective": "selective_training",
    "true": "checkpointed_training",
}
"""Ways to count a training step, by ``backbone.gradient_checkpointing``."""


def training_flops(system: System, passes: Passes) -> dict[str, Any] | None:
    """Operations per sample of each phase; ``None`` for experiments that only generate.

    What a cache keeps is made once and not counted.
    """
    settings = system.experiment.settings.training
    if settings is None:
        return None
    targets = 0 if settings.cache.targets else _encoding(system)
    phases = []
    for phase in settings.phases:
        schedule = phase_schedule(system, phase)
        shares = _shares(schedule, passes.target_tokens)
        flops = {
            kind: round(
                targets
                + sum(
                    share * _step_flops(passes, active, kind, encoding=not settings.cache.features)
                    for share, active in shares.values()
                )
            )
            for kind in ("useful_training", *_TRAINING.values())
        }
        phases.append(
            {
                "name": phase.name or "+".join(phase.branches or tuple(system.branches)),
                "steps": phase.steps,
                "trainable": sum(p.numel() for p in system.trainable(phase.branches).values()),
                "stage_shares": {name: share for name, (share, _) in shares.items()},
                "useful_flops_per_sample": flops["useful_training"],
                "flops_per_sample": {option: flops[kind] for option, kind in _TRAINING.items()},
            }
        )
    return {
        "batch": settings.batch_size,
        "micro_batch": settings.micro_batch,
        "recomputed": _recomputed(system),
        "phases": phases,
    }


def _recomputed(system: System) -> str:
    """What the experiment says about gradient checkpointing."""
    return str(system.backbone.gradient_checkpointing).lower() if isinstance(system.backbone, Checkpoints) else "false"


def _encoding(system: System) -> int:
    """Operations of encoding one target."""
    image = system.experiment.settings.image
    with torch.no_grad(), dry_run(system.autoencoder) as cost:
        system.autoencoder.encode_images(torch.ones(1, 3, image.height, image.width))
    return cost.flops


def _shares(schedule: Schedule, tokens: int) -> dict[str, tuple[float, ActiveBranches]]:
    """How often each stage is drawn, and who speaks in it."""
    generator = torch.Generator().manual_seed(0)
    drawn = schedule.sample_timesteps(_DRAWS, image_tokens=tokens, generator=generator).tolist()
    stages = [schedule.stage(t) for t in drawn]
    times = dict(zip(stages, drawn, strict=True))
    return {name: (count / _DRAWS, schedule.active(times[name])) for name, count in Counter(stages).items()}


def _step_flops(passes: Passes, active: ActiveBranches, kind: str, *, encoding: bool) -> float:
    """Operations of one sample in one stage: conditioning, then the backbone forward and backward.

    ``encoding``: whether encoders run.
    """
    one = passes.one(active)
    flops = getattr(one.work, kind) + 3 * (one.added.flops + one.injection.flops)
    for branch in one.branch_passes:
        made = passes.made(branch.branch, branch.seen)
        flops += made.training.flops + (made.encoder.flops if encoding else 0)
    return float(flops)


def training_memory(system: System, passes: Passes, stages: list[Stage]) -> dict[str, Any]:
    """Bytes at the worst: all rows of a micro-batch in the stage with the most tokens."""
    settings, backbone = system.experiment.settings.training, system.backbone
    if settings is None:
        return {}
    autocast = settings.mixed_precision == "bf16"
    widest = max((one for stage in stages for one in stage.passes), key=lambda one: one.tokens.all)
    forward = passes.runs.training(widest.tokens, torch.bfloat16 if autocast else None)
    made = [one for found in passes.conditioned().values() for one in found]
    element, blocks = next(p.element_size() for p in backbone.parameters()), len(backbone.attention_sites)
    inputs = widest.tokens.all * passes.runs.width * element
    activations: dict[str, float] = {"false": forward.peak_bytes}
    if isinstance(backbone, Checkpoints):
        activations["true"] = checkpointed_bytes(forward, inputs, blocks)
    if passes.runs.flux is not None:
        activations["selective"] = activations["true"] + blocks * inputs
    beside = widest.injection.saved_bytes + widest.added.saved_bytes
    beside += sum(one.feature_bytes + one.training.saved_bytes for one in made)
    rows = training_rows(
        training_static(system, autocast=autocast, averaged=settings.ema_decay is not None),
        activations={f"--set backbone.gradient_checkpointing={way}": each for way, each in activations.items()},
        beside=beside,
        asked=f"--set backbone.gradient_checkpointing={_recomputed(system)}",
    )
    return {
        "activation_bytes_per_sample": activations,
        "conditioning_bytes_per_sample": beside,
        "training": [asdict(row) for row in rows],
    }
