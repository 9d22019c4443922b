"""diffusers' FLUX transformer, whose attentions can each get arguments of their own.

diffusers hands one dictionary to all blocks. Keys and values of references differ from one attention to the next; a
block that found its own by a number would be compiled anew for every number, so the loop gives them out instead, as
diffusers' own FLUX.2 does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor, nn


class FluxTransformer2DModel(diffusers.FluxTransformer2DModel):  # type: ignore[misc,unused-ignore]
    """The same modules and the same function; bears diffusers' name, for the name goes into ``config.json``."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor | None = None,
        joint_attention_kwargs: Mapping[str, Any] | None = None,
        by_site: Sequence[Mapping[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As diffusers' ``forward``, plus ``by_site``.

        Args:
            hidden_states: image tokens (b, n, q).
            encoder_hidden_states: context tokens (b, l, d); l may be 0.
            pooled_projections: (b, p).
            timestep: (b,) in [0, 1].
            img_ids: (n, 3).
            txt_ids: (l, 3).
            guidance: (b,) where the model has that input.
            joint_attention_kwargs: what every attention processor gets.
            by_site: what single attention processors get beside, in running order.
            return_dict: an output object, or a tuple of one tensor.
        """
        hidden_states = self.x_embedder(hidden_states)
        blocks = (*self.transformer_blocks, *self.single_transformer_blocks)
        embedded = self._embedded(hidden_states.dtype, timestep, guidance, pooled_projections)
        *conditions, last = [embedded] * (len(blocks) + 1) if isinstance(embedded, Tensor) else embedded
        encoder_hidden_states = self.context_embedder(encoder_hidden_states)
        rotary = self.pos_embed(torch.cat((txt_ids, img_ids), dim=0))
        for site, block in enumerate(blocks):
            if site == len(self.transformer_blocks):
                encoder_hidden_states, hidden_states = _views(encoder_hidden_states, hidden_states)
            arguments = {**(joint_attention_kwargs or {}), **(by_site[site] if by_site is not None else {})}
            encoder_hidden_states, hidden_states = self._run(
                block, hidden_states, encoder_hidden_states, conditions[site], rotary, arguments
            )
        output = self.proj_out(self.norm_out(hidden_states, last))
        return diffusers.models.modeling_outputs.Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _embedded(
        self, dtype: torch.dtype, timestep: Tensor, guidance: Tensor | None, pooled: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        """The conditions' embedding, which all blocks get; or with a modulation table what each block gets."""
        scaled = [value.to(dtype) * 1000 for value in (timestep, guidance) if value is not None]
        embedded: Tensor | tuple[Tensor, ...] = self.time_text_embed(*scaled, pooled)
        return embedded

    def _run(self, block: nn.Module, image: Tensor, context: Tensor, temb: Tensor, rotary: Any, arguments: Any) -> Any:
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
