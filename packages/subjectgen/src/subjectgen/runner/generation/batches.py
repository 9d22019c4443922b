"""From a request to decoded images: rows that go together are prepared, denoised and decoded, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError, Sample
from subjectgen.runner.generation.denoising import Denoising, prepare
from subjectgen.runner.generation.passes import grouped, row_pass, shapes, step_passes, warn_of_silent_stages
from subjectgen.runner.generation.request import Case, Request
from subjectgen.runner.generation.samplers import Sampler, SamplerStep, euler, noise
from subjectgen.runner.system.system import System

ROUND = 16
"""Images that are encoded before the first is denoised, where parts leave the device in between. More would move parts
less often; each keeps its tokens, and for FLUX.1-dev 2 MB of modulation for every step that sees its prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a progress callback is told after each step of a batch."""

    index: int
    steps: int
    timestep: float
    """Where the velocity was taken."""
    stage: str
    latents: Float[Tensor, "b c h w"]
    """After the step."""
    estimate: Float[Tensor, "b c h w"]
    """The image as this velocity sees it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Decoded images of some cases of a request."""

    cases: tuple[int, ...]
    """Their numbers in the request."""
    images: Float[Tensor, "n 3 h w"]
    """RGB in [0, 1], on the CPU."""
    explanations: Sequence[dict[str, Any]]
    """For each image, by branch: what aggregators said that explain themselves."""


def batches(
    system: System,
    request: Request,
    *,
    on_step: Callable[[Step], None] | None = None,
    sampler: Sampler = euler,
) -> Iterator[Batch]:
    """Images as they come. Rows that go together are decided once, here, for the whole of the denoising."""
    groups = list(together(system, request))
    at_once = max(ROUND // request.batch_size, 1) if system.residency.moves else 1
    for start in range(0, len(groups), at_once):
        with system.residency.turn():
            found = _round(system, request, groups[start : start + at_once], on_step=on_step, sampler=sampler)
        yield from found


def image_size(system: System, case: Case) -> tuple[int, int]:
    """Height and width of a case's image: the experiment's where it says none.

    Raises:
        InputError: Pixels that the backbone's tokens do not fill.
    """
    settings = system.experiment.settings.image
    size = case.size or (settings.height, settings.width)
    multiple = system.autoencoder.scale_factor * system.backbone.patch_size
    for name, pixels in zip(("height", "width"), size, strict=True):
        if pixels < multiple or pixels % multiple:
            below = max(pixels // multiple, 1) * multiple
            raise InputError(f"{name}: got {pixels}; expected a multiple of {multiple}, such as {below}")
    return size


def distinct(samples: Sequence[Sample]) -> tuple[list[Sample], Tensor]:
    """Samples without repetition, and which of them each row is."""
    found: dict[Hashable, int] = {}
    unique: list[Sample] = []
    index = []
    for sample in samples:
        key = (sample.prompt, tuple(id(reference) for reference in sample.references))
        if key not in found:
            found[key] = len(unique)
            unique.append(sample)
        index.append(found[key])
    return unique, torch.tensor(index)


def together(system: System, request: Request) -> Iterator[list[int]]:
    """Numbers of the cases of each batch: the same size, and the same passes in every step."""
    sizes = [image_size(system, case) for case in request.cases]
    keys: dict[tuple[int, tuple[int, int]], Hashable] = {}
    found = []
    for case, size in zip(request.cases, sizes, strict=True):
        known = (id(case.sample), size)
        if known not in keys:
            keys[known] = (size, row_key(system, case.sample, size, request.steps))
        found.append(keys[known])
    for group in grouped(found):
        for start in range(0, len(group), request.batch_size):
            yield group[start : start + request.batch_size]


def row_key(system: System, sample: Sample, size: tuple[int, int], steps: int | None) -> Hashable:
    """What happens to a row from the first step to the last."""
    schedule, branches = system.schedule, system.branches
    grid = system.target_grid(system.latent_shape(*size)[1:])
    times = [float(t) for t in schedule.timesteps(steps, image_tokens=grid[0] * grid[1])][:-1]
    if any(not row_pass(branches, sample, schedule.active(t)) for t in times):
        warn_of_silent_stages(branches, [sample], schedule, times)
    passes = tuple(step_passes(branches, sample, schedule.active(t), schedule.guidance(t)) for t in times)
    sized = dict.fromkeys(shapes(branches, sample, one.positive) for one in dict.fromkeys(passes))
    return passes, tuple(sized)


def _round(
    system: System,
    request: Request,
    groups: Sequence[Sequence[int]],
    *,
    on_step: Callable[[Step], None] | None,
    sampler: Sampler,
) -> list[Batch]:
    """Some batches: all are encoded, then denoised, then decoded, so that what leaves the device does so but once."""
    system.residency.encoding()
    prepared = [_prepared(system, [request.cases[row] for row in rows], request.steps) for rows in groups]
    system.residency.denoising()
    latents = [
        _denoised(one, [request.cases[row].seed for row in rows], shape, on_step=on_step, sampler=sampler)
        for (one, shape), rows in zip(prepared, groups, strict=True)
    ]
    system.residency.decoding()
    found = []
    for (one, _), rows, values in zip(prepared, groups, latents, strict=True):
        said = one.conditioner.explanations()
        index = range(len(rows)) if one.index is None else one.index.tolist()
        images = system.autoencoder.decode(values).cpu()
        found.append(Batch(cases=tuple(rows), images=images, explanations=[said[number] for number in index]))
    return found


def _prepared(system: System, cases: Sequence[Case], steps: int | None) -> tuple[Denoising, tuple[int, int, int]]:
    shape = system.latent_shape(*image_size(system, cases[0]))
    unique, index = distinct([case.sample for case in cases])
    return prepare(system, unique, shape[1:], index=index, steps=steps), shape


@torch.no_grad()
def _denoised(
    denoising: Denoising,
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    *,
    on_step: Callable[[Step], None] | None,
    sampler: Sampler,
) -> Float[Tensor, "b c h w"]:
    start = noise(seeds, shape).to(denoising.system.device)
    return denoise(denoising, start, on_step=on_step, sampler=sampler)


@torch.no_grad()
def denoise(
    denoising: Denoising,
    latents: Float[Tensor, "b c h w"],
    *,
    on_step: Callable[[Step], None] | None = None,
    sampler: Sampler = euler,
) -> Float[Tensor, "b c h w"]:
    """From noise to latents; they keep their dtype, whatever the backbone computes in."""
    schedule, steps = denoising.system.schedule, len(denoising.times) - 1

    def tell(step: SamplerStep) -> None:
        assert on_step is not None
        stage = schedule.stage(step.timestep)
        on_step(
            Step(
                index=step.index,
                steps=steps,
                timestep=step.timestep,
                stage=stage,
                latents=step.latents,
                estimate=step.estimate,
            )
        )

    return sampler(denoising.ready(), latents, denoising.times, on_step=None if on_step is None else tell)
