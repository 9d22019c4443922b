"""One prepared denoising: all that does not depend on the noisy image is made before the first step.

That is what each pass of each stage feeds the backbone, the conditions of all steps, the keys and values of references.
A step then runs the backbone alone, on the tokens of its stage. Nothing of the system changes, so any number may run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subjectgen.core import Backbone, CachesReferences, Prepares, Sample, StepConditions, Streams
from subjectgen.runner.generation.conditioner import Conditioner
from subjectgen.runner.generation.passes import StepPasses, step_passes
from subjectgen.runner.system.system import System


@dataclass(frozen=True, kw_only=True, eq=False)
class StageInputs:
    """What each step of a stage runs: one pass, two in one batch, or two one after another."""

    streams: tuple[Streams, ...]
    """Of one pass; of both in one batch, the negative rows last; or of the positive pass and the negative one."""
    joined: bool
    """Whether the one entry of ``streams`` holds two passes."""
    embedded: float | None
    """The backbone's own guidance input."""
    scale: float
    """Of classifier-free guidance in two passes."""

    def velocity(
        self, backbone: Backbone, latents: Float[Tensor, "b c h w"], t: Float[Tensor, ""]
    ) -> Float[Tensor, "b c h w"]:
        """Velocity at ``t`` with classifier-free guidance: negative + scale (positive - negative)."""
        inputs = torch.cat((latents, latents)) if self.joined else latents
        timestep = t.expand(len(inputs))
        found = [backbone(inputs, timestep, one, guidance=self.embedded) for one in self.streams]
        passes = found[0].chunk(2) if self.joined else found
        if len(passes) == 1:
            return passes[0]
        positive, negative = passes
        return negative + self.scale * (positive - negative)


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoising:
    """The velocity of one batch of rows, for a sampler; its inputs are all there."""

    system: System
    samples: Sequence[Sample]
    times: tuple[float, ...]
    """Falling from 1 to 0."""
    conditioner: Conditioner
    index: Int[Tensor, " rows"] | None
    inputs: Mapping[StepPasses, StageInputs]
    backbone: Backbone
    """The system's, or one that knows the conditions of all steps."""

    def passes(self, t: float) -> StepPasses:
        """What the backbone is run for at ``t``; the same for all rows."""
        schedule = self.system.schedule
        return step_passes(self.system.branches, self.samples[0], schedule.active(t), schedule.guidance(t))

    def __call__(self, latents: Float[Tensor, "b c h w"], t: float) -> Float[Tensor, "b c h w"]:
        """Velocity at ``t``; between the points of the grid too."""
        passes = self.passes(t)
        inputs = self.inputs.get(passes) or stage_inputs(self.conditioner, passes, self.index)
        return inputs.velocity(self.backbone, latents, latents.new_tensor(t))

    def ready(self) -> Denoising:
        """The same with the conditions of all steps and what references say computed; the backbone is in its place."""
        backbone = self.system.backbone
        if not isinstance(backbone, Prepares) or not self.system.residency.whole_backbone:
            return replace(self, inputs=_with_references(backbone, self.inputs))
        steps = [(t, self.inputs[self.passes(t)]) for t in self.times[:-1]]
        conditions = {
            (t, id(streams.pooled), stage.embedded): StepConditions(t, streams.pooled, stage.embedded)
            for t, stage in steps
            for streams in stage.streams
        }
        prepared = backbone.prepare(list(conditions.values()))
        return replace(self, inputs=_with_references(prepared, self.inputs), backbone=prepared)


@torch.no_grad()
def prepare(
    system: System,
    samples: Sequence[Sample],
    latent_size: tuple[int, int],
    *,
    index: Int[Tensor, " rows"] | None = None,
    steps: int | None = None,
    instead: Mapping[str, Sequence[Sample]] | None = None,
) -> Denoising:
    """Run encoders and aggregators for all passes of all stages.

    Args:
        system: The built experiment.
        samples: Prompts and references; all must have the same passes in every step.
        latent_size: Height and width of the latents.
        index: Which sample each row is of; ``None`` for one row per sample.
        steps: Overrides the schedule's number of steps.
        instead: Other samples for single branches, to measure what a branch changes.
    """
    grid = system.target_grid(latent_size)
    times = tuple(float(t) for t in system.schedule.timesteps(steps, image_tokens=grid[0] * grid[1]))
    conditioner = Conditioner(system, samples, target_grid=grid, instead=instead)
    unprepared = Denoising(
        system=system,
        samples=samples,
        times=times,
        conditioner=conditioner,
        index=index,
        inputs={},
        backbone=system.backbone,
    )
    wanted = dict.fromkeys(unprepared.passes(t) for t in times[:-1])
    return replace(unprepared, inputs={passes: stage_inputs(conditioner, passes, index) for passes in wanted})


@torch.no_grad()
def stage_inputs(conditioner: Conditioner, passes: StepPasses, index: Int[Tensor, " rows"] | None) -> StageInputs:
    """What enters the backbone in these passes; both in one batch where they have equally many tokens."""
    found = [passes.positive] if passes.negative is None else [passes.positive, passes.negative]
    joined = len(found) > 1 and conditioner.joinable(found)
    batches = [found] if joined else [[one] for one in found]
    streams = tuple(conditioner.streams(batch, index) for batch in batches)
    return StageInputs(streams=streams, joined=joined, embedded=passes.embedded, scale=passes.scale)


def _with_references(backbone: Any, inputs: Mapping[StepPasses, StageInputs]) -> Mapping[StepPasses, StageInputs]:
    """The same; a backbone that can keeps what its references say in all steps, shared where they are equal."""
    if not isinstance(backbone, CachesReferences):
        return inputs
    done: list[Streams] = []
    kept = {}
    for passes, stage in inputs.items():
        streams = []
        for one in stage.streams:
            streams.append(backbone.cache_references(one, like=done))
            done.append(streams[-1])
        kept[passes] = replace(stage, streams=tuple(streams))
    return kept
