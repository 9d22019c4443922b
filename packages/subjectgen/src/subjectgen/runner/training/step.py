"""One optimizer step: rows that go together are run together, and every row weighs the same.

Shape letters: b rows of one group, c h w latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core import Backbone, Sample, Streams
from subjectgen.runner.generation.conditioner import placement
from subjectgen.runner.generation.conditions import scaled
from subjectgen.runner.generation.passes import Pass, grouped, row_pass, shapes
from subjectgen.runner.system.system import System
from subjectgen.runner.training.draws import TrainingBatch


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one optimizer step says of itself."""

    losses: tuple[float, ...]
    """Of each row."""
    gradient_norm: float
    """Before clipping."""

    @property
    def loss(self) -> float:
        """Mean over rows."""
        return sum(self.losses) / len(self.losses)

    @property
    def problem(self) -> str | None:
        """What is not finite."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        return None if math.isfinite(self.gradient_norm) else f"the gradient norm is {self.gradient_norm}"


def optimizer_step(
    system: System,
    batch: TrainingBatch,
    *,
    optimizer: Any,
    parameters: Sequence[nn.Parameter],
    max_grad_norm: float,
    guidance: float = 1.0,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> StepResult:
    """Gradients of the mean loss of all rows, clipped, and one step; gradients are cleared at the end.

    Nothing changes where the loss or the gradient norm is not finite; see ``problem`` of the result.

    Args:
        system: In training mode.
        batch: What chance decided.
        optimizer: Of the parameters.
        parameters: Those that are clipped together.
        max_grad_norm: Gradient norm above which gradients are scaled down.
        guidance: For backbones with a guidance input.
        autocast: Precision of the forward pass.
        backward: Of a loss; accelerate has its own.
    """
    count = len(batch.samples)
    found: dict[int, float] = {}
    for rows in batch_groups(system, batch):
        with autocast():
            losses = group_losses(system, batch, rows, guidance=guidance)
        if losses.requires_grad:  # not where nothing trainable takes part: no adapter, and the aggregator is hidden
            backward(losses.sum() / count)
        found |= dict(zip(rows, losses.detach().tolist(), strict=True))
    norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm))
    result = StepResult(losses=tuple(found[row] for row in range(count)), gradient_norm=norm)
    if result.problem is None:
        optimizer.step()
    optimizer.zero_grad()
    return result


def batch_groups(system: System, batch: TrainingBatch) -> list[list[int]]:
    """Rows with the same branches present, and targets and references of one size: no token is wasted on padding.

    Unlike in generation, rows of a group may see different inputs: they are encoded row by row, and run but once.
    """
    return grouped([_key(system, batch, row) for row in range(len(batch.samples))])


def _key(system: System, batch: TrainingBatch, row: int) -> Hashable:
    sample = batch.samples[row]
    passes = row_pass(system.branches, sample, batch.active[row])
    present = tuple(one.branch for one in passes)
    return batch.data[row].shape, present, shapes(system.branches, sample, passes)


def group_losses(
    system: System, batch: TrainingBatch, rows: Sequence[int], *, guidance: float = 1.0
) -> Float[Tensor, " b"]:
    """Loss of each row of a group; gradients reach adapters, aggregators and injectors."""
    data, noise = (torch.stack([values[row] for row in rows]) for values in (batch.data, batch.noise))
    samples = [batch.samples[row] for row in rows]
    passes = [row_pass(system.branches, batch.samples[row], batch.active[row]) for row in rows]
    streams = group_streams(system, samples, passes, target_grid=system.target_grid(data.shape[2:]))
    return flow_matching_loss(
        system.backbone,
        data,
        noise,
        batch.timesteps[list(rows)].to(data),
        streams,
        guidance=guidance if system.backbone.guidance_embedded else None,
    )


def group_streams(
    system: System, samples: Sequence[Sample], passes: Sequence[Pass], *, target_grid: tuple[int, int]
) -> Streams:
    """Streams of one group, each row with what its own pass sees; all have the same branches present."""
    streams = Streams(target_grid=target_grid, placement=placement(system, samples, target_grid))
    for together in zip(*passes, strict=True):
        branch = system.branches[together[0].branch]
        seen = [sample.seen(one.seen) for sample, one in zip(samples, together, strict=True)]
        conditions = branch.encode(seen).conditions
        if any(one.zeroed for one in together):
            conditions = scaled(conditions, torch.tensor([0.0 if one.zeroed else 1.0 for one in together]))
        streams = branch.injector(streams, conditions)
    return streams


def flow_matching_loss(
    backbone: Backbone,
    data: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Float[Tensor, " b"],
    streams: Streams,
    *,
    guidance: float | None = None,
) -> Float[Tensor, " b"]:
    """Rectified flow: x_t = (1 - t) data + t noise; the target is noise - data; mean squared error of each row."""
    t = timesteps[:, None, None, None]
    velocity = backbone((1 - t) * data + t * noise, timesteps, streams, guidance=guidance)
    return (velocity.float() - (noise - data).float()).square().mean(dim=(1, 2, 3))
