"""Euler sampling of the rectified flow, stage by stage.

All that does not depend on the noisy image is made before the first step: what each pass of each stage feeds the
backbone, the conditions of all steps, the keys and values of isolated references. A step then runs the backbone alone,
on the tokens of its stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import ActiveBranches, Guidance, Sample, StepConditions, Streams
from subjectgen.runner.assemble import System
from subjectgen.runner.conditioning import Conditioner, Pass, silence


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a progress callback is told after each step."""

    index: int
    steps: int
    timestep: float
    """Where the velocity was taken."""
    stage: str
    latents: Float[Tensor, "b c h w"]
    """After the step."""
    estimate: Float[Tensor, "b c h w"]
    """The image as this velocity sees it: x_t - t v, since x_t = (1 - t) image + t noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What each step of a stage runs: one pass, two in one batch, or two one after another."""

    streams: tuple[Streams, ...]
    """Of one pass; of both in one batch, the negative rows last; or of the positive pass and the negative one."""
    joined: bool
    """Whether the one entry of ``streams`` holds two passes."""
    guidance: Guidance

    def velocity(
        self, backbone: Any, latents: Float[Tensor, "b c h w"], t: Float[Tensor, ""]
    ) -> Float[Tensor, "b c h w"]:
        """Velocity at ``t`` with classifier-free guidance: negative + scale (positive - negative)."""
        inputs = torch.cat((latents, latents)) if self.joined else latents
        timestep = t.expand(len(inputs))
        found = [backbone(inputs, timestep, one, guidance=self.guidance.embedded) for one in self.streams]
        passes = found[0].chunk(2) if self.joined else found
        if len(passes) == 1:
            return passes[0]
        positive, negative = passes
        return negative + self.guidance.true_cfg * (positive - negative)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A batch with everything but its noise."""

    times: tuple[float, ...]
    """Falling from 1 to 0."""
    stages: tuple[str, ...]
    """One per step."""
    work: tuple[Work, ...]
    """One per step; the steps of a stage share it."""

    @property
    def passes(self) -> int:
        """Backbone calls, a batch of two passes counted once."""
        return sum(len(work.streams) for work in self.work)


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Float[Tensor, "b c h w"]:
    """Starting noise; a row depends on its seed alone, not on the batch it is in."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def sample(
    system: System,
    samples: Sequence[Sample],
    latents: Float[Tensor, "b c h w"],
    *,
    index: Tensor | None = None,
    steps: int | None = None,
    on_step: Callable[[Step], None] | None = None,
    instead: Mapping[str, Sequence[Sample]] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Denoise ``latents`` (row i for sample ``index[i]``) from t = 1 to 0 with the experiment's schedule.

    Args:
        system: The built experiment.
        samples: Prompts and references; all must have the same branches present.
        latents: Starting noise.
        index: Which sample each row belongs to; ``None`` for one row per sample.
        steps: Overrides the schedule's number of steps.
        on_step: Called after each step.
        instead: Other samples for single branches, to measure what a branch changes.
    """
    size = (latents.shape[-2], latents.shape[-1])
    system.memory.encoding()
    prepared = plan(system, samples, size, index=index, steps=steps, instead=instead)
    with ready(system, [prepared]):
        return denoise(system, prepared, latents, on_step=on_step)


def images(
    system: System,
    batches: Sequence[tuple[Sequence[Sample], Sequence[int]]],
    shape: tuple[int, int, int],
    *,
    steps: int | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> list[Float[Tensor, "_ 3 h w"]]:
    """Images on the CPU, one per sample and seed; rows with the same sample share its conditioning.

    All batches are encoded, then denoised, then decoded, so that parts that leave the device do so but once.

    Args:
        system: The built experiment.
        batches: Samples and as many seeds; see :func:`sample` for what can be in one batch.
        shape: Channels, height and width of the latents.
        steps: Overrides the schedule's number of steps.
        on_step: Called after each step of each batch.
    """
    system.memory.encoding()
    plans = []
    for samples, _ in batches:
        unique, index = distinct(samples)
        plans.append(plan(system, unique, shape[1:], index=index, steps=steps))
    with ready(system, plans):
        latents = [
            denoise(system, prepared, noise(seeds, shape), on_step=on_step)
            for prepared, (_, seeds) in zip(plans, batches, strict=True)
        ]
    return [system.autoencoder.decode(one).cpu() for one in latents]


@torch.no_grad()
def plan(
    system: System,
    samples: Sequence[Sample],
    size: tuple[int, int],
    *,
    index: Tensor | None = None,
    steps: int | None = None,
    instead: Mapping[str, Sequence[Sample]] | None = None,
) -> Plan:
    """Run encoders and aggregators: what all passes of all stages feed the backbone. Arguments as for :func:`sample`.

    ``size``: height and width of the latents.
    """
    patch = system.backbone.patch_size
    grid = (size[0] // patch, size[1] // patch)
    schedule = system.schedule
    times = tuple(float(t) for t in schedule.timesteps(steps, image_tokens=grid[0] * grid[1]))
    conditioner = Conditioner(system, samples, target_grid=grid, instead=instead)
    known: dict[object, Work] = {}
    work = []
    for t in times[:-1]:
        active, guidance = schedule.active(t), schedule.guidance(t)
        passes = _passes(system, conditioner, active, guidance)
        key = (passes, guidance.embedded, guidance.true_cfg)
        if key not in known:
            known[key] = _work(conditioner, passes, guidance, index)
        work.append(known[key])
    return Plan(times=times, stages=tuple(schedule.stage(t) for t in times[:-1]), work=tuple(work))


@torch.no_grad()
def denoise(
    system: System,
    prepared: Plan,
    latents: Float[Tensor, "b c h w"],
    *,
    on_step: Callable[[Step], None] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Run the backbone through all steps of a plan, inside of :func:`ready`.

    The first Euler step starts at ``times[0]``; latents keep their dtype, whatever the backbone computes in.
    """
    latents = latents.to(system.device)
    times = latents.new_tensor(prepared.times)
    work = _with_references(system.backbone, prepared.work)
    for number, (t, following) in enumerate(pairwise(prepared.times)):
        velocity = work[number].velocity(system.backbone, latents, times[number])
        before, latents = latents, latents + (following - t) * velocity
        if on_step is not None:
            stage, estimate = prepared.stages[number], before - t * velocity
            on_step(Step(index=number, steps=len(work), timestep=t, stage=stage, latents=latents, estimate=estimate))
    return latents


@contextmanager
def ready(system: System, plans: Sequence[Plan]) -> Iterator[None]:
    """The backbone in its place, knowing the conditions of all steps of these plans.

    It computes what follows from the conditions on the device, and leaves the device as a whole. Where the weights for
    that are released they never come there: the backbone comes after it was told, and leaves before they are back.
    """
    with ExitStack() as stack:
        stack.callback(system.memory.decoding)
        if not system.memory.release_modulation:
            system.memory.denoising()
        stack.enter_context(conditions(system, plans))
        stack.callback(system.memory.decoding)
        system.memory.denoising()
        yield


def conditions(system: System, plans: Sequence[Plan]) -> AbstractContextManager[Any]:
    """Tell a backbone that wants to know (``prepare``) the timestep, pooled vector and guidance of all steps."""
    prepare = getattr(system.backbone, "prepare", None)
    if prepare is None or not system.memory.whole_backbone:
        return nullcontext()
    requests = {
        (t, id(streams.pooled), work.guidance.embedded): StepConditions(t, streams.pooled, work.guidance.embedded)
        for prepared in plans
        for t, work in zip(prepared.times[:-1], prepared.work, strict=True)
        for streams in work.streams
    }
    context: AbstractContextManager[Any] = prepare(list(requests.values()), release=system.memory.release_modulation)
    return context


def _passes(system: System, conditioner: Conditioner, active: ActiveBranches, guidance: Guidance) -> tuple[Pass, ...]:
    """The positive pass, and the negative one where it would give another velocity."""
    positive = conditioner.passed(active)
    if guidance.true_cfg == 1.0:
        return (positive,)
    hidden = active.restricted(silence(guidance.negative, tuple(system.branches)))
    negative = conditioner.passed(hidden)
    return (positive,) if negative == positive else (positive, negative)


def _work(conditioner: Conditioner, passes: tuple[Pass, ...], guidance: Guidance, index: Tensor | None) -> Work:
    joined = len(passes) > 1 and conditioner.joinable(passes)
    batches = [passes] if joined else [(one,) for one in passes]
    streams = tuple(conditioner.joined(batch, index) for batch in batches)
    return Work(streams=streams, joined=joined, guidance=guidance)


def _with_references(backbone: Any, work: Sequence[Work]) -> list[Work]:
    """The same work; a backbone that can (``cache_references``) keeps what its references say in all steps."""
    cache = getattr(backbone, "cache_references", None)
    if cache is None:
        return list(work)
    kept: dict[int, Work] = {}
    done: list[Streams] = []
    for one in work:
        if id(one) not in kept:
            streams = []
            for passed in one.streams:
                streams.append(cache(passed, like=done))
                done.append(streams[-1])
            kept[id(one)] = replace(one, streams=tuple(streams))
    return [kept[id(one)] for one in work]


def distinct(samples: Sequence[Sample]) -> tuple[list[Sample], Tensor]:
    """Samples without repetition, and which of them each row is."""
    found: dict[object, int] = {}
    unique: list[Sample] = []
    index = []
    for sample in samples:
        key = (sample.prompt, tuple(id(reference) for reference in sample.references))
        if key not in found:
            found[key] = len(unique)
            unique.append(sample)
        index.append(found[key])
    return unique, torch.tensor(index)
