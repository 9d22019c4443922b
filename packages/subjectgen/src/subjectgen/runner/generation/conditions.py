"""Operations on what branches hand to injectors: choosing rows, stacking batches, scaling rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subjectgen.core import Conditioning, Latents
from subjectgen.runner.system.branch import Conditions


def rows(conditions: Conditions, index: Int[Tensor, " n"]) -> Conditions:
    """Chosen rows; a row may be chosen many times."""
    if isinstance(conditions, Latents):
        return Latents(values=tuple(value[index.to(value.device)] for value in conditions.values))
    index = index.to(conditions.tokens.device)
    return Conditioning(
        tokens=conditions.tokens[index],
        mask=conditions.mask[index],
        pooled=None if conditions.pooled is None else conditions.pooled[index],
        reference=None if conditions.reference is None else conditions.reference[index],
    )


def stacked(parts: Sequence[Conditions]) -> Conditions:
    """Conditionings of equal :func:`shape_of` as one, the rows of one after those of another."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Latents):
        columns = zip(*(part.values for part in parts if isinstance(part, Latents)), strict=True)
        return Latents(values=tuple(torch.cat(column) for column in columns))
    given = [part for part in parts if isinstance(part, Conditioning)]
    pooled = [part.pooled for part in given if part.pooled is not None]
    reference = [part.reference for part in given if part.reference is not None]
    return Conditioning(
        tokens=torch.cat([part.tokens for part in given]),
        mask=torch.cat([part.mask for part in given]),
        pooled=torch.cat(pooled) if pooled else None,
        reference=torch.cat(reference) if reference else None,
    )


def shape_of(conditions: Conditions) -> Hashable:
    """What must be equal for :func:`stacked`."""
    if isinstance(conditions, Latents):
        return tuple(value.shape for value in conditions.values)
    return conditions.tokens.shape, conditions.pooled is None, conditions.reference is None


def scaled(conditions: Conditions, by: Float[Tensor, " b"]) -> Conditions:
    """Multiply each row by a number; 0 is the letter of Eq. 4."""
    if isinstance(conditions, Latents):
        return Latents(values=tuple(value * by.to(value)[:, None, None, None] for value in conditions.values))
    factor = by.to(conditions.tokens)
    pooled = None if conditions.pooled is None else conditions.pooled * factor[:, None]
    return replace(conditions, tokens=conditions.tokens * factor[:, None, None], pooled=pooled)
