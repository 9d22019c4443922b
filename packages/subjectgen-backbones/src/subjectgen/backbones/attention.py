"""FLUX attention with room for what injectors add: diffusers' own, plus :class:`AttentionAddition` before the output
projection, and keys and values of isolated references. Without them it is diffusers' processor, operation for
operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor, _get_qkv_projections
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import AttentionAddition, AttentionLayout, AttentionSite


class KeysValues(NamedTuple):
    """What one attention knows of the references, after normalization and position encoding."""

    keys: Float[Tensor, "b r heads e"]
    values: Float[Tensor, "b r heads e"]


def take(record: list[KeysValues | None]) -> KeysValues:
    """What one attention recorded. The list keeps a place holder: with gradient checkpointing blocks run again in the
    backward pass, and a list that held their tensors would be held by them in turn, forever.
    """
    (found,) = record
    assert found is not None
    record[0] = None
    return found


def attention_sites(transformer: diffusers.FluxTransformer2DModel) -> tuple[AttentionSite, ...]:
    """Every attention, in running order: double blocks, then single blocks."""
    return tuple(
        AttentionSite(name=name, heads=module.heads, head_width=module.head_dim)
        for name, module in transformer.named_modules()
        if isinstance(module, FluxAttention)
    )


def install_additions(transformer: diffusers.FluxTransformer2DModel, *, apart: bool = False) -> None:
    """Give every attention a processor that knows its own place among :func:`attention_sites`.

    ``apart``: additions run outside of compiled blocks. They differ from block to block, and would have every block
    compiled anew; apart from them, blocks of one kind share one graph.
    """
    attentions = [module for module in transformer.modules() if isinstance(module, FluxAttention)]
    for site, attention in enumerate(attentions):
        attention.set_processor(AddingProcessor(site, apart=apart))


class AddingProcessor(FluxAttnProcessor):  # type: ignore[misc,unused-ignore]
    """diffusers' processor, which also reads from references and runs ``additions`` on the attention's output."""

    def __init__(self, site: int, *, apart: bool = False) -> None:
        super().__init__()
        self.site, self.apart = site, apart

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        additions: Sequence[AttentionAddition] = (),
        layout: AttentionLayout | None = None,
        references: KeysValues | None = None,
        record: list[KeysValues | None] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend over context and image tokens; hidden states (b, n, c) in and out.

        Args:
            attn: the attention.
            hidden_states: image tokens, or all tokens in a single block.
            encoder_hidden_states: context tokens of a double block.
            attention_mask: which keys count, those of ``references`` included.
            image_rotary_emb: of all tokens here.
            additions: run one after another on the output, where ``layout`` is given.
            layout: which tokens are what.
            references: further keys and values, after all others.
            record: takes this attention's own keys and values, if it is empty.
        """
        if not additions and references is None and record is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        query, key, value = _projected(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        if record is not None and not record:
            record.append(KeysValues(key, value))
        if references is not None:
            key, value = torch.cat((key, references.keys), dim=1), torch.cat((value, references.values), dim=1)
        output = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        if layout is not None:
            add = _add_apart if self.apart else _add
            output = add(self, additions, query, output, layout)
        return _output(attn, output.flatten(2, 3).to(query.dtype), encoder_hidden_states)


def _add(
    processor: AddingProcessor,
    additions: Sequence[AttentionAddition],
    query: Tensor,
    output: Tensor,
    layout: AttentionLayout,
) -> Tensor:
    """Takes the processor for its number: read here, the number is no business of the compiled block."""
    for addition in additions:
        output = addition(processor.site, query, output, layout)
    return output


_add_apart = torch.compiler.disable(_add)


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
