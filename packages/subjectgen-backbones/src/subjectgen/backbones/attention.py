"""FLUX attention with room for what injectors add: diffusers' own, plus :class:`AttentionAddition` before the output
projection. Without additions it is diffusers' processor, operation for operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor, _get_qkv_projections
from torch import Tensor

from subjectgen.core import AttentionAddition, AttentionLayout, AttentionSite


def attention_sites(transformer: FluxTransformer2DModel) -> tuple[AttentionSite, ...]:
    """Every attention, in running order: double blocks, then single blocks."""
    return tuple(
        AttentionSite(name=name, heads=module.heads, head_width=module.head_dim)
        for name, module in transformer.named_modules()
        if isinstance(module, FluxAttention)
    )


def install_additions(transformer: FluxTransformer2DModel) -> None:
    """Give every attention a processor that knows its own place among :func:`attention_sites`."""
    attentions = [module for module in transformer.modules() if isinstance(module, FluxAttention)]
    for site, attention in enumerate(attentions):
        attention.set_processor(AddingProcessor(site))


class AddingProcessor(FluxAttnProcessor):  # type: ignore[misc,unused-ignore]
    """diffusers' processor, which also runs ``additions`` on the attention's output."""

    def __init__(self, site: int) -> None:
        super().__init__()
        self.site = site

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        additions: Sequence[AttentionAddition] = (),
        layout: AttentionLayout | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend over context and image tokens; hidden states (b, n, c) in and out."""
        if layout is None or not additions:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        query, key, value = _projected(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        output = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        for addition in additions:
            output = addition(self.site, query, output, layout)
        return _output(attn, output.flatten(2, 3).to(query.dtype), encoder_hidden_states)


def _projected(
    attn: FluxAttention, hidden_states: Tensor, encoder_hidden_states: Tensor | None, rotary: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalized, position-encoded queries and keys, and values, each (b, n, heads, e), context first."""
    projections = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
    query, key, value = (part.unflatten(-1, (-1, attn.head_dim)) for part in projections[:3])
    query, key = attn.norm_q(query), attn.norm_k(key)
    if attn.added_kv_proj_dim is not None:
        context = [part.unflatten(-1, (-1, attn.head_dim)) for part in projections[3:]]
        query = torch.cat([attn.norm_added_q(context[0]), query], dim=1)
        key = torch.cat([attn.norm_added_k(context[1]), key], dim=1)
        value = torch.cat([context[2], value], dim=1)
    if rotary is not None:
        query = apply_rotary_emb(query, rotary, sequence_dim=1)
        key = apply_rotary_emb(key, rotary, sequence_dim=1)
    return query, key, value


def _output(attn: FluxAttention, output: Tensor, encoder_hidden_states: Tensor | None) -> Any:
    if encoder_hidden_states is None:
        return output
    length = encoder_hidden_states.shape[1]
    context, image = output[:, :length], output[:, length:]
    image = attn.to_out[1](attn.to_out[0](image.contiguous()))
    return image, attn.to_add_out(context.contiguous())
