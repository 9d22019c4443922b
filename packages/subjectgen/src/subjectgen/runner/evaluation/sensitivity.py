"""What each branch changes alone: whether a branch is heard at all. As scores, with a number for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import Quantity, Reference, Sample
from subjectgen.runner.evaluation.wording import SENSITIVITY
from subjectgen.runner.generation.batches import denoise, row_key, together
from subjectgen.runner.generation.denoising import prepare
from subjectgen.runner.generation.passes import grouped
from subjectgen.runner.generation.request import Request
from subjectgen.runner.generation.samplers import noise
from subjectgen.runner.system.system import System

SEED_STEP = 10_000
SEED_CHANGE = "seed_change"


def quantities(branches: Iterable[str]) -> dict[str, Quantity]:
    """The scores that :func:`sensitivity` gives, by name."""
    changed = "change of the image when the {} branch alone sees another sample's references"
    meanings = {f"{SENSITIVITY}{name}": changed.format(name) for name in branches}
    meanings[SEED_CHANGE] = "change of the image from another starting noise, for scale"
    return {name: Quantity(unit="RMS", low=0, high=1, better="none", meaning=why) for name, why in meanings.items()}


def sensitivity(
    system: System,
    samples: Sequence[Sample],
    seeds: Sequence[int],
    *,
    batch_size: int,
    on_probe: Callable[[str], None] | None = None,
) -> dict[str, list[float]]:
    """Root-mean-square change of each image when one branch alone sees another sample's references, by score.

    0 means that the branch is ignored. ``seed_change`` is what another starting noise changes, for scale.
    """
    half = len(samples) // 2
    swapped = [
        replace(one, references=_exchanged(one, other))
        for one, other in zip(samples, [*samples[half:], *samples[:half]], strict=True)
    ]

    def images(label: str, seeds: Sequence[int], instead: Mapping[str, Sequence[Sample]]) -> Float[Tensor, "b 3 h w"]:
        if on_probe is not None:
            on_probe(label)
        return _images(system, samples, seeds, instead, batch_size)

    plain = images("as it is", seeds, {})
    changes = {f"{SENSITIVITY}{name}": images(name, seeds, {name: swapped}) for name in system.branches}
    changes[SEED_CHANGE] = images("another seed", [seed + SEED_STEP for seed in seeds], {})
    return {name: (changed - plain).square().mean(dim=(1, 2, 3)).sqrt().tolist() for name, changed in changes.items()}


def _exchanged(one: Sample, other: Sample) -> tuple[Reference, ...]:
    """The other's pictures in this one's places."""
    return tuple(
        replace(theirs, region_mask=own.region_mask, weight=own.weight)
        for own, theirs in zip(one.references, other.references, strict=False)
    )


@torch.no_grad()
def _images(
    system: System,
    samples: Sequence[Sample],
    seeds: Sequence[int],
    instead: Mapping[str, Sequence[Sample]],
    batch_size: int,
) -> Float[Tensor, "b 3 h w"]:
    """One image per sample, in order; rows go together as in any request."""
    size = system.experiment.settings.image
    shape = system.latent_shape(size.height, size.width)
    images = torch.empty(len(samples), 3, size.height, size.width)
    for rows in _groups(system, samples, seeds, instead, batch_size):
        with system.residency.turn():
            system.residency.encoding()
            others = {name: [found[row] for row in rows] for name, found in instead.items()}
            prepared = prepare(system, [samples[row] for row in rows], shape[1:], instead=others)
            system.residency.denoising()
            latents = denoise(prepared, noise([seeds[row] for row in rows], shape).to(system.device))
            system.residency.decoding()
            images[rows] = system.autoencoder.decode(latents).cpu()
    return images


def _groups(
    system: System,
    samples: Sequence[Sample],
    seeds: Sequence[int],
    instead: Mapping[str, Sequence[Sample]],
    batch_size: int,
) -> Iterator[list[int]]:
    """Rows that go together by their own samples and by those of the probe."""
    size = system.experiment.settings.image
    for rows in together(system, Request.of(samples, seeds, batch_size=batch_size)):
        keys = [
            tuple(row_key(system, found[row], (size.height, size.width), None) for found in instead.values())
            for row in rows
        ]
        yield from ([rows[number] for number in group] for group in grouped(keys))
