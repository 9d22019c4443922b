"""Token groups joined into the backbone's sequences, and the mask over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subjectgen.backbones.attention import KeysValues
from subjectgen.core import AttentionLayout, Streams, TokenGroup


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


def image_tokens(
    target: Tensor, target_ids: Tensor, references: TokenGroup, keys_values: tuple[KeysValues, ...] | None
) -> TokenGroup:
    """The image stream: the target, and after it the references unless they are isolated."""
    mask = torch.ones(target.shape[:2], dtype=torch.bool, device=target.device)
    if keys_values is not None:
        return TokenGroup(tokens=target, mask=mask, position_ids=target_ids)
    return TokenGroup(
        tokens=torch.cat((target, references.tokens), dim=1),
        mask=torch.cat((mask, references.mask), dim=1),
        position_ids=torch.cat((target_ids, references.position_ids)),
    )


def attention_arguments(
    streams: Streams, context: Tensor, image: Tensor, target: int, references: Tensor
) -> dict[str, Any] | None:
    """What attention processors get; keys are in the order context, target, references, isolated or not.

    ``context``, ``image`` and ``references`` are masks, ``target`` is the number of target tokens.
    """
    arguments: dict[str, Any] = {}
    mask = attention_mask((context, image[:, :target], references))
    if mask is not None:
        arguments["attention_mask"] = mask
    if streams.attention:
        start, end, stop = context.shape[1], context.shape[1] + target, context.shape[1] + image.shape[1]
        arguments["additions"] = streams.attention
        arguments["layout"] = AttentionLayout(
            context=slice(0, start), target=slice(start, end), references=slice(end, stop)
        )
    return arguments or None
