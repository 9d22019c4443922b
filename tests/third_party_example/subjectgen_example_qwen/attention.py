"""Attention of Qwen-Image with room for masks and for what injectors add.

Shape letters: b batch, n image tokens, l context tokens, heads, e width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen
from torch import Tensor
from torch.nn import functional

from subjectgen.core import AttentionAddition, AttentionLayout


class JointAttention:
    """diffusers' processor of Qwen-Image, with the image in front, and a mask over all tokens."""

    def __init__(self, site: int) -> None:
        self.site = site

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        target: int = 0,
        additions: Sequence[AttentionAddition] = (),
    ) -> tuple[Tensor, Tensor]:
        """Attend over image and context tokens; ``target`` of the image tokens are the target, the first ones."""
        image = _projected(attn, hidden_states, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k))
        added = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        context = _projected(attn, encoder_hidden_states, added, (attn.norm_added_q, attn.norm_added_k))
        positions, context_positions = image_rotary_emb
        query, key = (
            torch.cat([_rotated(image[i], positions), _rotated(context[i], context_positions)], dim=1) for i in (0, 1)
        )
        value = torch.cat([image[2], context[2]], dim=1)
        output = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=attention_mask
        ).transpose(1, 2)
        count = hidden_states.shape[1]
        layout = AttentionLayout(
            target=slice(0, target), references=slice(target, count), context=slice(count, query.shape[1])
        )
        for addition in additions:
            output = addition(self.site, query, output, layout)
        output = output.flatten(2)
        return attn.to_out[0](output[:, :count]), attn.to_add_out(output[:, count:])


def _projected(attn: Attention, tokens: Tensor, layers: Sequence[Any], norms: Sequence[Any]) -> tuple[Tensor, ...]:
    query, key, value = (layer(tokens).unflatten(-1, (attn.heads, -1)) for layer in layers)
    return norms[0](query), norms[1](key), value


def _rotated(values: Tensor, positions: Tensor) -> Tensor:
    rotated: Tensor = apply_rotary_emb_qwen(values, positions, use_real=False)
    return rotated
