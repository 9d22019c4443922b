"""What is learned: the loss of each row of a group. Gradients reach adapters, aggregators and injectors.

Shape letters: b rows of one group, c h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import Backbone, Sample, Streams, Visibility
from subjectgen.runner.generation.conditioner import placement
from subjectgen.runner.generation.conditions import scaled
from subjectgen.runner.generation.passes import Pass, row_pass
from subjectgen.runner.system.branch import Branch, Conditions
from subjectgen.runner.system.system import System
from subjectgen.runner.training.draws import TrainingBatch

Loss = Callable[[System, TrainingBatch, Sequence[int]], Tensor]
"""Loss of each row of a group, (b,): all have the same branches present, and targets and references of one size."""
Encode = Callable[[Branch, Sequence[Sample], Sequence[Visibility]], Conditions]
"""What a branch makes of samples of which it sees so much."""


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """Rectified flow towards the targets."""

    guidance: float = 1.0
    """For backbones with a guidance input."""

    def __call__(self, system: System, batch: TrainingBatch, rows: Sequence[int]) -> Float[Tensor, " b"]:
        """See :func:`flow_matching_loss`."""
        data, noise = (torch.stack([values[row] for row in rows]) for values in (batch.data, batch.noise))
        return flow_matching_loss(
            system.backbone,
            data,
            noise,
            batch.timesteps[list(rows)].to(data),
            group_streams(system, batch, rows),
            guidance=self.guidance if system.backbone.guidance_embedded else None,
        )


def group_streams(
    system: System,
    batch: TrainingBatch,
    rows: Sequence[int],
    *,
    encode: Encode | None = None,
    instead: Mapping[str, Sequence[Sample]] | None = None,
) -> Streams:
    """Streams of one group, each row with what its own pass sees; all have the same branches present.

    Args:
        system: The built experiment.
        batch: Of which ``rows`` are a group.
        rows: In the batch.
        encode: In place of the branches' own encoding.
        instead: Other samples of the rows for single branches, to see what that changes.
    """
    samples = [batch.samples[row] for row in rows]
    passes = [row_pass(system.branches, batch.samples[row], batch.active[row]) for row in rows]
    grid = system.target_grid(batch.data[rows[0]].shape[1:])
    return joined_streams(system, samples, passes, target_grid=grid, encode=encode, instead=instead)


def joined_streams(
    system: System,
    samples: Sequence[Sample],
    passes: Sequence[Pass],
    *,
    target_grid: tuple[int, int],
    encode: Encode | None = None,
    instead: Mapping[str, Sequence[Sample]] | None = None,
) -> Streams:
    """Streams of samples under their own passes, in which the same branches are present."""
    streams = Streams(target_grid=target_grid, placement=placement(system, samples, target_grid))
    for together in zip(*passes, strict=True):
        branch = system.branches[together[0].branch]
        own = (instead or {}).get(branch.name, samples)
        conditions = (encode or _encode)(branch, own, [one.seen for one in together])
        if any(one.zeroed for one in together):
            conditions = scaled(conditions, torch.tensor([0.0 if one.zeroed else 1.0 for one in together]))
        streams = branch.injector(streams, conditions)
    return streams


def _encode(branch: Branch, samples: Sequence[Sample], seen: Sequence[Visibility]) -> Conditions:
    return branch.encode([sample.seen(one) for sample, one in zip(samples, seen, strict=True)]).conditions


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
    noisy = (1 - t) * data + t * noise
    # Gradients run through every block, also where no trained part stands before it: processes that share a model must
    # leave its blocks in one order, whichever branches their rows hear.
    noisy.requires_grad_(torch.is_grad_enabled())
    velocity = backbone(noisy, timesteps, streams, guidance=guidance)
    return (velocity.float() - (noise - data).float()).square().mean(dim=(1, 2, 3))
