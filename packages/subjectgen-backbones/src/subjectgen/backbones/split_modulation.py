"""Blocks whose reference tokens are modulated as clean images, at t = 0, and all others at the step's t.

Models of 2026 that keep references (FLUX.3, Qwen-Image-2.1) modulate them so: what a reference is does not change with
the noise beside it. The blocks are diffusers' own classes with the same layers under the same names; given plain
modulation they run diffusers' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers.models.transformers.transformer_flux as flux
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from subjectgen.backbones.ready_modulation import BlockModulation


@dataclass(frozen=True, eq=False)
class SplitModulation:
    """Modulation of one block: of all tokens, but for the last ones of the sequence."""

    now: Tensor | BlockModulation
    """The embedding of the step's conditions, or what it leads to."""
    clean: Tensor | BlockModulation
    """The same at t = 0."""
    references: int
    """Tokens at the sequence's end that take ``clean``."""


class FluxTransformerBlock(flux.FluxTransformerBlock):  # type: ignore[misc,unused-ignore]
    """A double block; bears diffusers' name, by which blocks are found to be compiled."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Any,
        image_rotary_emb: Any = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As diffusers' own, with ``temb`` also as :class:`SplitModulation`."""
        rest = (image_rotary_emb, joint_attention_kwargs)
        if not isinstance(temb, SplitModulation):
            found: tuple[Tensor, Tensor] = super().forward(hidden_states, encoder_hidden_states, temb, *rest)
            return found
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = _split(self.norm1, temb, hidden_states, 6)
        context = [value[:, None] for value in _values(self.norm1_context, temb.now).chunk(6, dim=-1)]
        attended, context_attended = self.attn(
            hidden_states=self.norm1.norm(hidden_states) * (1 + scale) + shift,
            encoder_hidden_states=self.norm1_context.norm(encoder_hidden_states) * (1 + context[1]) + context[0],
            image_rotary_emb=image_rotary_emb,
            **(joint_attention_kwargs or {}),
        )[:2]
        hidden_states = hidden_states + gate * attended
        hidden_states = hidden_states + gate_mlp * self.ff(self.norm2(hidden_states) * (1 + scale_mlp) + shift_mlp)
        encoder_hidden_states = encoder_hidden_states + context[2] * context_attended
        normed = self.norm2_context(encoder_hidden_states) * (1 + context[4]) + context[3]
        return encoder_hidden_states + context[5] * self.ff_context(normed), hidden_states


class FluxSingleTransformerBlock(flux.FluxSingleTransformerBlock):  # type: ignore[misc,unused-ignore]
    """A single block; bears diffusers' name."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Any,
        image_rotary_emb: Any = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As diffusers' own, with ``temb`` also as :class:`SplitModulation`."""
        rest = (image_rotary_emb, joint_attention_kwargs)
        if not isinstance(temb, SplitModulation):
            found: tuple[Tensor, Tensor] = super().forward(hidden_states, encoder_hidden_states, temb, *rest)
            return found
        length = encoder_hidden_states.shape[1]
        joined = torch.cat((encoder_hidden_states, hidden_states), dim=1)
        shift, scale, gate = _split(self.norm, temb, joined, 3)
        normed = self.norm.norm(joined) * (1 + scale) + shift
        attended = self.attn(hidden_states=normed, image_rotary_emb=image_rotary_emb, **(joint_attention_kwargs or {}))
        joined = joined + gate * self.proj_out(torch.cat((attended, self.act_mlp(self.proj_mlp(normed))), dim=2))
        return joined[:, :length], joined[:, length:]


def take_split_modulation(transformer: FluxTransformer2DModel) -> None:
    """Let the transformer's blocks be these; layers, names and values stay."""
    for block in transformer.transformer_blocks:
        block.__class__ = FluxTransformerBlock
    for block in transformer.single_transformer_blocks:
        block.__class__ = FluxSingleTransformerBlock


def _values(norm: nn.Module, modulation: Tensor | BlockModulation) -> Tensor:
    """What a norm makes of the conditions' embedding, (b, parts times the width), or its part of what is ready."""
    if not isinstance(modulation, Tensor):
        return modulation[norm.part]  # type: ignore[index,unused-ignore]
    made: Tensor = norm.linear(norm.silu(modulation))  # type: ignore[operator]
    return made


def _split(norm: nn.Module, modulation: SplitModulation, tokens: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Shift, scale, gate ... of each token, (b, n, d)."""
    count, total = modulation.references, tokens.shape[1]
    now = _values(norm, modulation.now)[:, None].expand(-1, total - count, -1)
    clean = _values(norm, modulation.clean)[:, None].expand(-1, count, -1)
    return torch.cat((now, clean), dim=1).chunk(parts, dim=-1)
