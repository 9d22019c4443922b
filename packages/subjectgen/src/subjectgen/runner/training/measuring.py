"""What references and prompts change of the velocity, and the loss on rows that stay the same.

Shape letters: b rows of one group, c h w latents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import ActiveBranches, Sample, Schedule, Visibility
from subjectgen.runner.system.branch import Branch, Conditions
from subjectgen.runner.system.system import System
from subjectgen.runner.training.draws import TrainingBatch
from subjectgen.runner.training.losses import group_streams
from subjectgen.runner.training.step import batch_pieces
from subjectgen.runner.training.swaps import INPUTS, Swaps

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where the velocity is looked at: the middles of five equal parts of t."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedRows:
    """Rows that are looked at again and again, with everything that chance decides of them."""

    samples: Sequence[Sample]
    data: Sequence[Float[Tensor, "c _ _"]]
    """Latents of the targets."""
    noise: Sequence[Float[Tensor, "c _ _"]]
    """The same at every timestep."""

    def at(self, t: float, active: ActiveBranches, stage: str = "") -> TrainingBatch:
        """The rows at one timestep, all with the same branches; nothing is dropped."""
        count = len(self.samples)
        return TrainingBatch(
            samples=self.samples,
            data=self.data,
            noise=self.noise,
            timesteps=torch.full((count,), t, dtype=torch.float64),
            active=[active] * count,
            stages=[stage] * count,
        )


def measure(
    system: System, rows: FixedRows, schedule: Schedule, guidance: float, micro_batch: int | None
) -> dict[str, Any]:
    """Loss, and change of the velocity by other references and other prompts, at each of :data:`TIMES`.

    A change is the mean squared difference of the velocity over its mean square, over the rows for which there is
    another row to take from: 0 is exact where nobody listens, 1 is a change as large as the velocity itself.
    ``..._by_t`` is for all branches at once, ``..._by_branch`` for each one alone that reads this input; ``None`` where
    no row has another one.

    Args:
        system: In evaluation mode.
        rows: To look at.
        schedule: The phase's.
        guidance: For backbones with a guidance input.
        micro_batch: Rows that are run at once, at most.
    """
    look = Look(system, Swaps(rows.samples), guidance if system.backbone.guidance_embedded else None)
    losses, changes = _Means(), {what: _Means() for what in INPUTS}
    for t in TIMES:
        batch = rows.at(t, schedule.active(t), schedule.stage(t))
        for piece in batch_pieces(system, batch, micro_batch):
            plain = look.velocity(batch, piece, {})
            losses.add("", t, row_losses(batch, piece, plain), [1.0] * len(piece))
            for what in INPUTS:
                for who, changed, kept in look.changes(batch, piece, what):
                    squares = _row_means((changed - plain).square()), _row_means(plain.square())
                    changes[what].add(who, t, *([values[row] for row in kept] for values in squares))
    by_t = losses.ratios()[""]
    found: dict[str, Any] = {"rows": len(rows.samples), "loss": _rounded(mean_over_t(by_t)), "loss_by_t": by_t}
    for what, one in changes.items():
        by_branch = one.ratios()
        found |= {f"{what}_by_t": by_branch.pop("", None), f"{what}_by_branch": by_branch or None}
    return found


@dataclass(eq=False)
class Look:
    """Velocities of pieces of a batch. What branches make of samples is kept: it is the same at every timestep."""

    system: System
    swaps: Swaps
    guidance: float | None
    """``None`` for backbones without the input."""
    made: dict[Any, Conditions] = field(default_factory=dict)

    def velocity(
        self, batch: TrainingBatch, piece: Sequence[int], instead: Mapping[str, Sequence[Sample]]
    ) -> Float[Tensor, "b c h w"]:
        """``instead``: other samples for single branches."""
        data, noise = (torch.stack([values[row] for row in piece]) for values in (batch.data, batch.noise))
        timesteps = batch.timesteps[list(piece)].to(data)
        t = timesteps[:, None, None, None]
        streams = group_streams(self.system, batch, piece, encode=self._encode, instead=instead)
        noisy = (1 - t) * data + t * noise
        found: Tensor = self.system.backbone(noisy, timesteps, streams, guidance=self.guidance)
        return found.float()

    def changes(
        self, batch: TrainingBatch, piece: Sequence[int], what: str
    ) -> Iterator[tuple[str, Float[Tensor, "b c h w"], list[int]]]:
        """Velocities with other references or prompts: for all branches ('') and for each one alone that reads them;
        and the places in the piece for which there was another row.
        """
        kept, swapped = self.swaps.of(piece, what)
        readers = [name for name, branch in self.system.branches.items() if INPUTS[what] in branch.encoder.inputs]
        if not kept or not readers:
            return
        together = self.velocity(batch, piece, dict.fromkeys(readers, swapped))
        yield "", together, kept
        for name in readers:
            alone = together if len(readers) == 1 else self.velocity(batch, piece, {name: swapped})
            yield name, alone, kept

    def _encode(self, branch: Branch, samples: Sequence[Sample], seen: Sequence[Visibility]) -> Conditions:
        key = branch.name, tuple(map(id, samples)), tuple(seen)  # the samples live as long as this
        if key not in self.made:
            shown = [sample.seen(one) for sample, one in zip(samples, seen, strict=True)]
            self.made[key] = branch.encode(shown).conditions
        return self.made[key]


def row_losses(batch: TrainingBatch, piece: Sequence[int], velocity: Float[Tensor, "b c h w"]) -> list[float]:
    """Mean squared error of each row's velocity; its target is noise - data."""
    noise, data = (torch.stack([values[row] for row in piece]) for values in (batch.noise, batch.data))
    return _row_means((velocity - (noise - data)).square())


class _Means:
    """Quotients of sums, by who and timestep."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))

    def add(self, who: str, t: float, over: Sequence[float], under: Sequence[float]) -> None:
        self._sums[who][t][0] += sum(over)
        self._sums[who][t][1] += sum(under)

    def ratios(self) -> dict[str, dict[str, float]]:
        return {
            who: {f"{t:g}": _rounded(over / under if under else 0.0) for t, (over, under) in sorted(sums.items())}
            for who, sums in self._sums.items()
        }


def _row_means(values: Float[Tensor, "b c h w"]) -> list[float]:
    found: list[float] = values.double().mean(dim=(1, 2, 3)).tolist()
    return found


def mean_over_t(values: Mapping[str, float]) -> float:
    """Of what :func:`measure` found by timestep."""
    return sum(values.values()) / len(values)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
