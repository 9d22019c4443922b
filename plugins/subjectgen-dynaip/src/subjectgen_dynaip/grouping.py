"""Conditioning tokens sorted by the reference that they tell of, so that each reference is attended to by itself.

Shape letters: b rows, l tokens of a row, k references, g tokens of a reference, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subjectgen.core import Conditioning


@dataclass(frozen=True, kw_only=True, eq=False)
class TokensByReference:
    """The valid tokens of every reference; zero where a reference has fewer than the longest, or a row lacks it."""

    references: tuple[int, ...]
    """Numbers of the references in the sample's order; -1 first, for tokens that tell of none."""
    tokens: Float[Tensor, "b k g d"]
    present: Bool[Tensor, "b k"]
    """Whether the row has the reference."""
    key_mask: Bool[Tensor, "b k g"] | None
    """True at tokens; ``None`` if every reference that is present has g of them, for then attention needs no mask."""


def by_reference(conditioning: Conditioning) -> TokensByReference | None:
    """Sort the tokens; ``None`` if there is none."""
    mask = conditioning.mask
    owner = torch.full_like(mask, -1, dtype=torch.long) if conditioning.reference is None else conditioning.reference
    references = tuple(owner[mask].unique().tolist())
    if not references:
        return None
    here = torch.stack([mask & (owner == number) for number in references], dim=1)
    counts = here.sum(dim=2)
    longest = int(counts.max())
    order = (~here).to(torch.uint8).argsort(dim=2, stable=True)[:, :, :longest]
    valid = here.gather(2, order)
    rows = torch.arange(len(mask), device=mask.device)[:, None, None]
    tokens = torch.where(valid[..., None], conditioning.tokens[rows, order], 0)
    present = counts > 0
    whole = bool(((counts == longest) | ~present).all())
    # A row that lacks a reference would attend to nothing, which is not a number; it attends to zeros and weighs 0.
    return TokensByReference(
        references=references, tokens=tokens, present=present, key_mask=None if whole else valid | ~present[..., None]
    )
