"""Token sequences of a batch: padded, with the tokens that are kept.

Shape letters: b batch, s tokens with the template, l kept tokens, c width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subjectgen.core import Modality
from subjectgen.encoders.prompting import TokenRow


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Sequences of a batch, padded on the right, and where the kept tokens are."""

    ids: Int[Tensor, "b s"]
    attention_mask: Int[Tensor, "b s"]
    position: Int[Tensor, "b l"]
    """Place of each kept token in ``ids``; 0 at padding."""
    modality: Int[Tensor, "b l"]
    reference: Int[Tensor, "b l"]


def collate(rows: Sequence[TokenRow], *, padding: int, device: torch.device) -> TokenBatch:
    """Pad sequences on the right with the id ``padding`` (any but the image token) and list their kept tokens.

    Attention is causal, so what follows the last kept token cannot reach it and is not computed at all.
    """
    kept = [[i for i, keep in enumerate(row.keep) if keep] for row in rows]
    used = [row.ids[: (positions or [0])[-1] + 1] or [padding] for row, positions in zip(rows, kept, strict=True)]
    return TokenBatch(
        ids=_pad(used, padding, device),
        attention_mask=_pad([[1] * len(ids) for ids in used], 0, device),
        position=_pad(kept, 0, device),
        modality=_pad([[r.modality[i] for i in k] for r, k in zip(rows, kept, strict=True)], Modality.PADDING, device),
        reference=_pad([[r.reference[i] for i in k] for r, k in zip(rows, kept, strict=True)], -1, device),
    )


def take(
    states: Float[Tensor, "b s c"], position: Int[Tensor, "b l"], valid: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l c"]:
    """Kept tokens of a hidden state, zero at padding; on the device of ``position``, wherever its layer is."""
    rows = torch.arange(len(states), device=states.device)[:, None]
    return states[rows, position.to(states.device)].to(position.device).masked_fill_(~valid[..., None], 0)


def _pad(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Int[Tensor, "b l"]:
    length = max(map(len, rows))
    padded = [[*row, *[value] * (length - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=device).view(len(rows), length)
