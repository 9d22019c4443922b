"""Token groups joined into FLUX's sequences, with their positions, and the mask over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subjectgen.backbones.options import ReferenceOffset
from subjectgen.backbones.positions import (
    grid_position_ids,
    numbered_grids,
    reference_position_ids,
)
from subjectgen.core import AttentionLayout, Streams, TokenGroup


@dataclass(frozen=True, eq=False)
class Tokens:
    """A sequence of tokens, or a part of one."""

    values: Float[Tensor, "b l q"]
    mask: Bool[Tensor, "b l"]
    position_ids: Float[Tensor, "l 3"]

    def __len__(self) -> int:
        return self.values.shape[1]

    def followed_by(self, other: Tokens) -> Tokens:
        """Both, one after the other."""
        return Tokens(
            values=torch.cat((self.values, other.values), dim=1),
            mask=torch.cat((self.mask, other.mask), dim=1),
            position_ids=torch.cat((self.position_ids, other.position_ids)),
        )


def target_tokens(packed: Float[Tensor, "b n q"], grid: tuple[int, int]) -> Tokens:
    """The packed noisy image; all of it counts."""
    mask = torch.ones(packed.shape[:2], dtype=torch.bool, device=packed.device)
    return Tokens(packed, mask, grid_position_ids(grid, device=packed.device))


def context_tokens(groups: Sequence[TokenGroup], *, like: Float[Tensor, "b n q"], width: int) -> Tokens:
    """All groups of context, in order, at position 0; ``like`` gives batch, dtype and device, ``width`` the width."""
    return _joined(groups, [like.new_zeros(g.tokens.shape[1], 3, dtype=torch.float32) for g in groups], like, width)


def reference_tokens(streams: Streams, offset: ReferenceOffset, *, like: Float[Tensor, "b n q"]) -> Tokens:
    """All references, in order, each where it stands beside the target; ``like`` gives batch, width, dtype, device."""
    grids = numbered_grids(streams.references)
    ids = reference_position_ids(streams.target_grid, grids, offset, device=like.device)
    return _joined(streams.references, ids, like, like.shape[-1])


def _joined(groups: Sequence[TokenGroup], ids: Sequence[Tensor], like: Tensor, width: int) -> Tokens:
    """Of zero length if there is no group."""
    return Tokens(
        values=torch.cat([like.new_zeros(len(like), 0, width), *(group.tokens.to(like) for group in groups)], dim=1),
        mask=torch.cat(
            [
                torch.ones(len(like), 0, dtype=torch.bool, device=like.device),
                *(group.mask.to(like.device) for group in groups),
            ],
            dim=1,
        ),
        position_ids=torch.cat([like.new_zeros(0, 3, dtype=torch.float32), *ids]),
    )


def attention_mask(masks: Sequence[Bool[Tensor, "b _"]]) -> Bool[Tensor, "b 1 1 n"] | None:
    """Which keys every query may look at; ``None`` if all, for then attention has its fast kernels.

    ``masks`` follow each other as the tokens do in attention.
    """
    joined = torch.cat(list(masks), dim=1)
    return None if bool(joined.all()) else joined[:, None, None, :]


def attention_arguments(
    streams: Streams, context: Tokens, target: Tokens, references: Tokens, *, isolated: bool
) -> dict[str, Any] | None:
    """What attention processors get; keys are in the order context, target, references, isolated or not."""
    arguments: dict[str, Any] = {}
    mask = attention_mask((context.mask, target.mask, references.mask))
    if mask is not None:
        arguments["attention_mask"] = mask
    if streams.attention:
        start, end = len(context), len(context) + len(target)
        arguments["additions"] = streams.attention
        arguments["layout"] = AttentionLayout(
            context=slice(0, start),
            target=slice(start, end),
            references=slice(end, end if isolated else end + len(references)),
        )
    return arguments or None
