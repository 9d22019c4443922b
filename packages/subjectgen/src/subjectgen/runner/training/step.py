"""One optimizer step: rows that go together are run together, and every row weighs the same.

Shape letters: b rows of one group, c h w latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.runner.generation.passes import grouped, row_pass, shapes
from subjectgen.runner.system.system import System
from subjectgen.runner.training.draws import TrainingBatch
from subjectgen.runner.training.engine import Engine, whole
from subjectgen.runner.training.losses import Loss


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one optimizer step says of itself."""

    losses: tuple[float, ...]
    """Of each row of this process."""
    gradient_norm: float
    """Before clipping, over all processes."""

    @property
    def loss(self) -> float:
        """Mean over rows."""
        return sum(self.losses) / max(len(self.losses), 1)

    @property
    def problem(self) -> str | None:
        """What is not finite. A loss that is not in one process makes the norm so in all."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        return None if math.isfinite(self.gradient_norm) else f"the gradient norm is {self.gradient_norm}"


class StepModule(nn.Module):
    """All that is trained as one module, so that an engine sees it whole; whatever uses parameters runs in its forward:
    an engine may gather them there.
    """

    def __init__(self, system: System) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            part for part in (system.backbone, *system.branch_modules().values()) if isinstance(part, nn.Module)
        )
        self._system = system

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of the system gives: in training the loss of each row of a group."""
        return function(self._system, *arguments)


def optimizer_step(
    module: nn.Module,
    system: System,
    batch: TrainingBatch,
    *,
    loss: Loss,
    optimizer: Any,
    parameters: Sequence[nn.Parameter],
    max_grad_norm: float,
    engine: Engine,
    batch_size: int | None = None,
    micro_batch: int | None = None,
) -> StepResult:
    """Gradients of the mean loss of all rows, clipped, and one step; gradients are cleared at the end.

    Nothing changes where the loss or the gradient norm is not finite; see ``problem`` of the result.

    Args:
        module: A :class:`StepModule` as the engine runs it.
        system: In training mode.
        batch: What chance decided, for the rows of this process.
        loss: What is learned.
        optimizer: Of the parameters.
        parameters: Those that are clipped together; one that no row uses has a gradient of zero.
        max_grad_norm: Gradient norm above which gradients are scaled down.
        engine: Of the processes that make this step together.
        batch_size: Rows in all processes together; ``None``: those of the batch.
        micro_batch: Rows that are run at once at most; ``None``: all of a group.
    """
    groups = batch_pieces(system, batch, micro_batch)
    passes = int(engine.largest(len(groups))[0])
    share = engine.processes / (batch_size or len(batch.samples))  # engines take the mean over processes
    found: dict[int, float] = {}
    for number in range(passes):
        # Where others have more groups, the last one runs again and weighs nothing: all must meet in every pass.
        rows, weight = (groups[number], share) if number < len(groups) else (groups[-1], 0.0)
        with engine.pass_of(module, last=number == passes - 1):
            with engine.autocast():
                losses: Float[Tensor, " b"] = module(loss, batch, rows)
            if losses.requires_grad:  # not where nothing trainable takes part: no adapter, and the aggregator is hidden
                (losses.sum() * weight).backward()
        if weight:
            found |= dict(zip(rows, losses.detach().tolist(), strict=True))
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    norm = float(whole(nn.utils.clip_grad_norm_(parameters, max_grad_norm)))
    result = StepResult(losses=tuple(found[row] for row in range(len(batch.samples))), gradient_norm=norm)
    if result.problem is None:
        optimizer.step()
    module.zero_grad(set_to_none=True)  # also of what this phase leaves as it is
    return result


def batch_groups(system: System, batch: TrainingBatch) -> list[list[int]]:
    """Rows with the same branches present, and targets and references of one size: no token is wasted on padding.

    Unlike in generation, rows of a group may see different inputs: they are encoded row by row, and run but once.
    """
    return grouped([_key(system, batch, row) for row in range(len(batch.samples))])


def batch_pieces(system: System, batch: TrainingBatch, size: int | None) -> list[list[int]]:
    """:func:`batch_groups`, cut into pieces of at most ``size`` rows; ``None``: not cut."""
    return [part for rows in batch_groups(system, batch) for part in _pieces(rows, size)]


def _key(system: System, batch: TrainingBatch, row: int) -> Hashable:
    sample = batch.samples[row]
    passes = row_pass(system.branches, sample, batch.active[row])
    present = tuple(one.branch for one in passes)
    return batch.data[row].shape, present, shapes(system.branches, sample, passes)


def _pieces(rows: list[int], size: int | None) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)] if size else [rows]
