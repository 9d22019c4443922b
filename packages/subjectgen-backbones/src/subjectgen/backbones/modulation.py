"""The modulation of all steps, computed once (method section 4).

Shift, scale and gate of every block depend on timestep, pooled vector and guidance only, not on the image. With all
steps known before sampling, one batched product per layer gives every step's; a forward then looks its rows up, once
for all blocks: blocks get numbers and know nothing of the table, so that compiled ones do not depend on its length. The
layers that made them, 27 % of FLUX.1-dev's weights, are not needed until the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from jaxtyping import Float, Int
from torch import Tensor, nn

from subjectgen.core import ComponentError, StepConditions

Places: TypeAlias = dict[tuple[nn.Module, str], nn.Module]
"""Modules by their parents and names."""
MODULATED = (AdaLayerNormZero, AdaLayerNormZeroSingle, AdaLayerNormContinuous)


@dataclass(frozen=True, eq=False)
class _Entry:
    """Where the rows of one request are in the table."""

    conditions: StepConditions
    rows: Int[Tensor, " b"]


class ModulationTable:
    """Modulation of the requested steps; while installed, forwards get row numbers for a pooled vector."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        requests: Sequence[StepConditions],
        constant: Float[Tensor, " p"],
        *,
        release: bool,
    ) -> None:
        """Compute all rows where the weights are. Equal pooled vectors of a request share one row.

        Args:
            transformer: only its modules' places are changed, in :meth:`installed`.
            requests: conditions of the steps.
            constant: pooled vector of requests without one.
            release: keep the weights on the CPU while installed.
        """
        self.released = release
        self._transformer = transformer
        self._entries: list[_Entry] = []
        with torch.no_grad():
            self._lookups = _lookups(transformer, transformer.time_text_embed(*self._rows(requests, constant)))
        self._originals = {(parent, name): getattr(parent, name) for parent, name in self._lookups}

    def find(
        self, timestep: Float[Tensor, " b"], pooled: Float[Tensor, "b p"] | None, guidance: float | None
    ) -> Int[Tensor, " b"] | None:
        """Row numbers of these conditions; ``None`` if any is not in the table. Reads ``timestep`` on the host."""
        times = timestep.tolist()
        found = {time: self._find(time, timestep.dtype, pooled, guidance) for time in set(times)}
        rows = {time: entry.expand(len(times)) for time, entry in found.items() if entry is not None}
        if len(rows) < len(found):
            return None
        index = rows[times[0]] if len(rows) == 1 else torch.stack([rows[time][row] for row, time in enumerate(times)])
        return index.to(timestep.device)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Modulation is looked up in here, until the end."""
        _put(self._lookups)
        if self.released:
            self._move_originals(torch.device("cpu"))
        try:
            yield
        finally:
            if self.released:  # the rest may have moved to another device meanwhile
                self._move_originals(self._transformer.x_embedder.weight.device)
            _put(self._originals)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Compute modulation as usual, for one forward."""
        _put(self._originals)
        try:
            yield
        finally:
            _put(self._lookups)

    def __str__(self) -> str:
        times = sorted({entry.conditions.timestep for entry in self._entries}, reverse=True)
        shown = ", ".join(f"{time:g}" for time in times[:4])
        return f"{len(self._entries)} requests at timesteps {shown}{', ...' if len(times) > 4 else ''}"

    def _rows(self, requests: Sequence[StepConditions], constant: Tensor) -> list[Tensor]:
        """Inputs of the embedding for every row: timesteps, guidance if there is any, pooled vectors."""
        weight = self._transformer.x_embedder.weight
        times: list[Tensor] = []
        strengths: list[Tensor] = []
        pooled: list[Tensor] = []
        for request in requests:
            given = constant[None] if request.pooled is None else request.pooled
            unique, inverse = torch.unique(given, dim=0, return_inverse=True)
            self._entries.append(_Entry(request, inverse + sum(len(rows) for rows in times)))
            times.append(torch.full((len(unique),), request.timestep))
            strengths.append(torch.full((len(unique),), request.guidance or 0.0))
            pooled.append(unique.to(weight))
        numbers = [times, strengths] if self._transformer.config.guidance_embeds else [times]
        return [*(torch.cat(values).to(weight) * 1000 for values in numbers), torch.cat(pooled)]

    def _find(self, time: float, dtype: torch.dtype, pooled: Tensor | None, guidance: float | None) -> Tensor | None:
        for entry in self._entries:
            known = entry.conditions
            if _rounded(known.timestep, dtype) == time and known.guidance == guidance and _same(known.pooled, pooled):
                return entry.rows
        return None

    def _move_originals(self, device: torch.device) -> None:
        for module in self._originals.values():
            module.to(device)


@contextmanager
def modulated(
    table: ModulationTable | None,
    timestep: Float[Tensor, " b"],
    pooled: Float[Tensor, "b p"] | None,
    guidance: float | None,
) -> Iterator[Int[Tensor, " b"] | None]:
    """For one forward: row numbers in the table, or ``None`` where modulation is computed as usual.

    Raises:
        ComponentError: not in the table, or with gradients, while the weights are released.
    """
    rows = None if table is None or torch.is_grad_enabled() else table.find(timestep, pooled, guidance)
    if table is None or rows is not None:
        yield rows
        return
    if table.released:
        wanted = ", ".join(str(StepConditions(time, pooled, guidance)) for time in sorted(set(timestep.tolist())))
        raise ComponentError(
            f"backbone 'flux': the modulation weights are released, and {wanted} is not prepared ({table});"
            " add it to prepare(), run without gradients, or set release=False"
        )
    with table.suspended():
        yield None


class _Table(nn.Module):
    """Stands where timestep, guidance and pooled vector were embedded: the last of them is row numbers."""

    values: Float[Tensor, "rows c"]

    def __init__(self, parts: Sequence[Sequence[Float[Tensor, "rows _"]]]) -> None:
        """``parts``: what each block's modulation layers give, in running order; the output layer's are the last."""
        super().__init__()
        self.widths = [sum(part.shape[1] for part in block) for block in parts]
        self.register_buffer("values", torch.cat([part for block in parts for part in block], dim=1), persistent=False)

    def forward(self, *conditions: Tensor) -> tuple[Float[Tensor, "b _"], ...]:
        """Each block's modulation."""
        return self.values[conditions[-1]].split(self.widths, dim=1)


class _Part(nn.Module):
    """Stands where the activation before a modulation layer was: cuts that layer's output from its block's."""

    def __init__(self, start: int, length: int) -> None:
        super().__init__()
        self.start, self.length = start, length

    def forward(self, modulation: Float[Tensor, "b _"]) -> Float[Tensor, "b c"]:
        return modulation.narrow(1, self.start, self.length)


def _lookups(transformer: FluxTransformer2DModel, embedded: Float[Tensor, "rows c"]) -> Places:
    """What stands in the place of each module that depends on the conditions only."""
    places: Places = {}
    parts: list[list[Tensor]] = []
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks, transformer.norm_out):
        parts.append([])
        for norm in (module for module in block.modules() if isinstance(module, MODULATED)):
            modulation = norm.linear(norm.silu(embedded))
            places[norm, "silu"] = _Part(sum(part.shape[1] for part in parts[-1]), modulation.shape[1])
            places[norm, "linear"] = nn.Identity()
            parts[-1].append(modulation)
    return {**places, (transformer, "time_text_embed"): _Table(parts)}


def _put(modules: Places) -> None:
    for (parent, name), module in modules.items():
        setattr(parent, name, module)


@lru_cache(maxsize=1024)
def _rounded(value: float, dtype: torch.dtype) -> float:
    """The number that a tensor of this dtype would hold."""
    return torch.tensor(value, dtype=dtype).item()


def _same(known: Tensor | None, given: Tensor | None) -> bool:
    if known is None or given is None or known is given:
        return known is given
    alike = (known.shape, known.dtype, known.device) == (given.shape, given.dtype, given.device)
    return alike and torch.equal(known, given)
