"""Token groups joined into the backbone's sequences, and the mask over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subjectgen.core import TokenGroup


def join_groups(groups: Sequence[TokenGroup], *, like: Float[Tensor, "b n q"], width: int) -> TokenGroup:
    """All groups as one, in order; of zero length if there is none.

    ``like`` gives batch, dtype and device; ``width`` the tokens' width.
    """
    empty = TokenGroup(
        tokens=like.new_zeros(like.shape[0], 0, width),
        mask=torch.zeros(like.shape[0], 0, dtype=torch.bool, device=like.device),
        position_ids=torch.zeros(0, 3, device=like.device),
    )
    everything = (empty, *groups)
    return TokenGroup(
        tokens=torch.cat([group.tokens.to(like) for group in everything], dim=1),
        mask=torch.cat([group.mask.to(like.device) for group in everything], dim=1),
        position_ids=torch.cat([group.position_ids.to(empty.position_ids) for group in everything]),
    )


def attention_mask(masks: Sequence[Bool[Tensor, "b _"]]) -> Bool[Tensor, "b 1 1 n"] | None:
    """Which keys every query may look at; ``None`` if all, for then attention has its fast kernels.

    ``masks`` follow each other as the tokens do in attention.
    """
    joined = torch.cat(list(masks), dim=1)
    return None if bool(joined.all()) else joined[:, None, None, :]
