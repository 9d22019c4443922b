"""The modulation of all steps, computed once (method section 4).

Shift, scale and gate of every block depend on timestep, pooled vector and guidance only, not on the image. With all
steps known before sampling, one batched product per layer gives every step's. A forward then finds its rows, once for
all blocks, and hands each block its own; :class:`ReadyModulation` norms take them instead of the embedding. The layers
that made them, 27 % of FLUX.1-dev's weights, are then not needed. Nothing of the transformer is changed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from jaxtyping import Float, Int
from torch import Tensor, nn

from subjectgen.backbones.ready_modulation import MODULATED, BlockModulation
from subjectgen.core import StepConditions

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""What a timestep may come in."""


@dataclass(frozen=True, eq=False)
class _Entry:
    """Where the rows of one condition are in the table."""

    pooled: Float[Tensor, "b p"] | None
    rows: Int[Tensor, " b"]


class ModulationTable:
    """Modulation of given steps, by their conditions. It never changes, so that threads may share it."""

    def __init__(
        self, transformer: FluxTransformer2DModel, conditions: Sequence[StepConditions], constant: Float[Tensor, " p"]
    ) -> None:
        """Compute all rows. Equal pooled vectors of a condition share one row.

        Args:
            transformer: stays as it is; layers on another device than its input layer are copied there one by one.
            conditions: of the steps.
            constant: pooled vector of conditions without one.
        """
        self.conditions = tuple(conditions)
        device = transformer.x_embedder.weight.device
        with torch.no_grad():
            inputs, rows = _inputs(transformer, self.conditions, constant)
            embedded = _run(transformer.time_text_embed, device, *inputs)
            parts = [
                [_run(norm.linear, device, norm.silu(embedded)) for norm in norms] for norms in _norms(transformer)
            ]
        self._lengths = [len(block) for block in parts]
        self._widths = [part.shape[1] for block in parts for part in block]
        self._values = torch.cat([part for block in parts for part in block], dim=1)
        self._entries = {dtype: _by_conditions(self.conditions, rows, dtype) for dtype in DTYPES}

    def find(
        self,
        timestep: Float[Tensor, " b"],
        pooled: Float[Tensor, "b p"] | None,
        guidance: float | None,
        *,
        device: torch.device,
    ) -> tuple[BlockModulation, ...] | None:
        """What each block gets, the output layer last; ``None`` if the conditions of any row are not in the table.

        Reads ``timestep`` on the host: one that is there already costs no waiting for the device.
        """
        times = timestep.tolist()
        entries = self._entries.get(timestep.dtype, {})
        found = {time: _matching(entries.get((time, guidance), ()), pooled) for time in set(times)}
        rows = {time: entry.rows.expand(len(times)) for time, entry in found.items() if entry is not None}
        if not rows or len(rows) < len(found):
            return None
        index = rows[times[0]] if len(rows) == 1 else torch.stack([rows[time][row] for row, time in enumerate(times)])
        parts = iter(self._values[index].to(device).split(self._widths, dim=1))
        return tuple(tuple(next(parts) for _ in range(length)) for length in self._lengths)

    def __str__(self) -> str:
        times = sorted({known.timestep for known in self.conditions}, reverse=True)
        shown = ", ".join(f"{time:g}" for time in times[:4])
        return f"{len(self.conditions)} conditions at timesteps {shown}{', ...' if len(times) > 4 else ''}"


def modulation_layers(transformer: FluxTransformer2DModel) -> list[nn.Module]:
    """Layers that only make modulation: all of their input is known before the first step."""
    return [transformer.time_text_embed, *(norm.linear for norms in _norms(transformer) for norm in norms)]


def _norms(
    transformer: FluxTransformer2DModel,
) -> Iterator[list[AdaLayerNormZero | AdaLayerNormZeroSingle | AdaLayerNormContinuous]]:
    """Modulated norms of each block in running order, and of the output layer."""
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks, transformer.norm_out):
        yield [module for module in block.modules() if isinstance(module, MODULATED)]


def _inputs(
    transformer: FluxTransformer2DModel, conditions: Sequence[StepConditions], constant: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """What the embedding takes, for every row of the table; and the rows of every condition."""
    weight = transformer.x_embedder.weight
    times: list[Tensor] = []
    strengths: list[Tensor] = []
    pooled: list[Tensor] = []
    rows: list[Tensor] = []
    for known in conditions:
        given = constant[None] if known.pooled is None else known.pooled
        unique, inverse = torch.unique(given, dim=0, return_inverse=True)
        rows.append((inverse + sum(map(len, times))).to(weight.device))
        times.append(torch.full((len(unique),), known.timestep))
        strengths.append(torch.full((len(unique),), known.guidance or 0.0))
        pooled.append(unique.to(weight))
    numbers = [times, strengths] if transformer.config.guidance_embeds else [times]
    return [*(torch.cat(values).to(weight) * 1000 for values in numbers), torch.cat(pooled)], rows


def _run(module: nn.Module, device: torch.device, *inputs: Tensor) -> Tensor:
    """The module's answer on this device. It may lie elsewhere and be in use: then a copy is moved, not the module."""
    own = next(module.parameters()).device
    answer: Tensor = (module if own == device else copy.deepcopy(module).to(device))(*inputs)
    return answer


def _by_conditions(
    conditions: Sequence[StepConditions], rows: Sequence[Tensor], dtype: torch.dtype
) -> dict[tuple[float, float | None], list[_Entry]]:
    """Entries by guidance and by the number that a timestep of this dtype would hold."""
    times = torch.tensor([known.timestep for known in conditions], dtype=torch.float64).to(dtype).tolist()
    found: dict[tuple[float, float | None], list[_Entry]] = {}
    for time, known, row in zip(times, conditions, rows, strict=True):
        found.setdefault((time, known.guidance), []).append(_Entry(known.pooled, row))
    return found


def _matching(entries: Sequence[_Entry], pooled: Tensor | None) -> _Entry | None:
    """The entry of this very pooled vector, or else of an equal one; comparing values waits for the device."""
    same = (entry for entry in entries if entry.pooled is pooled)
    equal = (entry for entry in entries if _equal(entry.pooled, pooled))
    return next(same, None) or next(equal, None)


def _equal(known: Tensor | None, given: Tensor | None) -> bool:
    if known is None or given is None:
        return known is given
    alike = (known.shape, known.dtype, known.device) == (given.shape, given.dtype, given.device)
    return alike and torch.equal(known, given)
