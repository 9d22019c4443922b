"""diffusers' FLUX transformer, whose blocks can each get modulation, and their attentions arguments, of their own.

diffusers hands one dictionary to all blocks. Keys and values of references differ from one attention to the next; a
block that found its own by a number would be compiled anew for every number, so the loop gives them out instead, as
diffusers' own FLUX.2 does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from subjectgen.backbones.ready_modulation import BlockModulation, take_ready_modulation
from subjectgen.backbones.split_modulation import SplitModulation


class FluxTransformer2DModel(diffusers.FluxTransformer2DModel):  # type: ignore[misc,unused-ignore]
    """The same layers and the same function; bears diffusers' name, for the name goes into ``config.json``."""

    # diffusers reads the sizes off the signature
    @wraps(diffusers.FluxTransformer2DModel.__init__)  # type: ignore[misc,unused-ignore]
    def __init__(self, *sizes: Any, **named: Any) -> None:
        super().__init__(*sizes, **named)
        take_ready_modulation((*self.transformer_blocks, *self.single_transformer_blocks, self.norm_out))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor | None,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor | None = None,
        joint_attention_kwargs: Mapping[str, Any] | None = None,
        by_site: Sequence[Mapping[str, Any]] | None = None,
        modulation: Sequence[BlockModulation] | None = None,
        references: int = 0,
        clean: Sequence[BlockModulation] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As diffusers' ``forward``, plus ``by_site`` and ``modulation``.

        Args:
            hidden_states: image tokens (b, n, q).
            encoder_hidden_states: context tokens (b, l, d); l may be 0.
            pooled_projections: (b, p); not read where ``modulation`` is given, as timestep and guidance.
            timestep: (b,) in [0, 1].
            img_ids: (n, 3).
            txt_ids: (l, 3).
            guidance: (b,) where the model has that input.
            joint_attention_kwargs: what every attention processor gets.
            by_site: what single attention processors get beside, in running order.
            modulation: of each block, and of the output layer; computed here where it is not given.
            references: image tokens at the end that are modulated at t = 0; blocks must be those of
                :mod:`subjectgen.backbones.split_modulation`.
            clean: modulation at t = 0, where ``modulation`` and ``references`` are given.
            return_dict: an output object, or a tuple of one tensor.
        """
        hidden_states = self.x_embedder(hidden_states)
        blocks = (*self.transformer_blocks, *self.single_transformer_blocks)
        if modulation is None:
            scaled = [value.to(hidden_states.dtype) * 1000 for value in (timestep, guidance) if value is not None]
            modulation = [self.time_text_embed(*scaled, pooled_projections)] * (len(blocks) + 1)
            if references:
                scaled[0] = torch.zeros_like(scaled[0])
                clean = [self.time_text_embed(*scaled, pooled_projections)] * (len(blocks) + 1)
        if references and clean is not None:
            of_blocks = zip(modulation[:-1], clean[:-1], strict=True)
            given: list[Any] = [SplitModulation(now, zero, references) for now, zero in of_blocks]
            modulation = [*given, modulation[-1]]
        encoder_hidden_states = self.context_embedder(encoder_hidden_states)
        rotary = self.pos_embed(torch.cat((txt_ids, img_ids), dim=0))
        for site, block in enumerate(blocks):
            if site == len(self.transformer_blocks):
                encoder_hidden_states, hidden_states = _views(encoder_hidden_states, hidden_states)
            arguments = {**(joint_attention_kwargs or {}), **(by_site[site] if by_site is not None else {})}
            encoder_hidden_states, hidden_states = self._run(
                block, hidden_states, encoder_hidden_states, modulation[site], rotary, arguments
            )
        output = self.proj_out(self.norm_out(hidden_states, modulation[-1]))
        return diffusers.models.modeling_outputs.Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _run(self, block: nn.Module, image: Tensor, context: Tensor, temb: Any, rotary: Any, arguments: Any) -> Any:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, image, context, temb, rotary, arguments)
        return block(
            hidden_states=image,
            encoder_hidden_states=context,
            temb=temb,
            image_rotary_emb=rotary,
            joint_attention_kwargs=arguments,
        )


def _views(context: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """The same tokens as parts of one sequence, as each single block hands them on: the first, too, then shares the
    graph that the others are compiled to.
    """
    joined = torch.cat((context, image), dim=1)
    return joined[:, : context.shape[1]], joined[:, context.shape[1] :]
