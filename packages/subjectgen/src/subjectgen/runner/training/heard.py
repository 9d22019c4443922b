"""The loss on held-out samples by who is heard: no branch, each alone, all. The noise is the same for all.

Differences between these losses need no sampling and resolve much less than differences between pictures do: whether a
branch is read at all, and at which timesteps, is known before any table of pictures is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from subjectgen.core import EVERYTHING, NOTHING, ActiveBranches, InputError, Sample
from subjectgen.runner.system.system import System
from subjectgen.runner.training.measuring import FixedRows, Look, row_losses
from subjectgen.runner.training.positions import generator
from subjectgen.runner.training.step import batch_pieces
from subjectgen.runner.training.swaps import Swaps

NOBODY = "nothing"
"""Every branch is absent, as where dropout hides everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardLoss:
    """The loss of one sample at one timestep."""

    key: str
    """Of the sample."""
    t: float
    heard: str
    """:data:`NOBODY`, a branch, or all of them joined by ``+``."""
    loss: float
    """Mean squared error of the velocity."""


def everyone(branches: Sequence[str]) -> str:
    """What it is called when all branches are heard."""
    return "+".join(branches)


def who_is_heard(branches: Sequence[str]) -> dict[str, ActiveBranches]:
    """Nobody, each branch alone, and all of several, whatever the schedule's stages say."""
    sets: dict[str, Sequence[str]] = {NOBODY: (), **{name: (name,) for name in branches}, everyone(branches): branches}
    return {
        name: ActiveBranches(visibility={one: EVERYTHING if one in heard else NOTHING for one in branches})
        for name, heard in sets.items()
    }


@torch.no_grad()
def heard_losses(
    system: System, samples: Sequence[Sample], *, first: int, times: Sequence[float], guidance: float, seed: int
) -> Iterator[HeardLoss]:
    """Losses of samples that fit into memory together, sample after sample for each time and each who.

    Args:
        system: In evaluation mode.
        samples: With targets of the experiment's image size.
        first: Number of the first of them; a sample's noise follows from ``seed`` and its number.
        times: Timesteps, in (0, 1].
        guidance: For backbones with a guidance input.
        seed: Of the noise.

    Raises:
        InputError: A sample without a target, or with one of another size; names its key.
    """
    image = system.experiment.settings.image
    for sample in samples:
        if sample.target is None:
            raise InputError(f"sample {sample.key!r}: has no target; the loss needs the picture that is wanted")
        if sample.target.shape[1:] != (image.height, image.width):
            height, width = sample.target.shape[1:]
            raise InputError(
                f"sample {sample.key!r}: target of {width}x{height} pixels; expected {image.width}x{image.height}, the "
                "experiment's image"
            )
    targets = torch.stack([sample.target for sample in samples if sample.target is not None])
    data = list(system.autoencoder.encode_images(targets.to(system.device)).float())
    draws = [generator(seed, "heard", first + number) for number in range(len(samples))]
    noise = [torch.randn(one.shape, generator=draw).to(one) for one, draw in zip(data, draws, strict=True)]
    rows = FixedRows(samples=samples, data=data, noise=noise)
    look = Look(system, Swaps(samples), guidance if system.backbone.guidance_embedded else None)
    for heard, active in who_is_heard(list(system.branches)).items():
        for t in times:
            batch = rows.at(t, active)
            for piece in batch_pieces(system, batch, None):
                losses = row_losses(batch, piece, look.velocity(batch, piece, {}))
                for row, loss in zip(piece, losses, strict=True):
                    yield HeardLoss(key=samples[row].key, t=t, heard=heard, loss=loss)
