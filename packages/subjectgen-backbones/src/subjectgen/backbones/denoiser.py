"""One way through a FLUX backbone: token groups to velocity, with modulation computed as usual or found in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.backbones.attention import KeysValues, take
from subjectgen.backbones.modulation import ModulationTable
from subjectgen.backbones.packing import pack_latents, token_grid, unpack_latents
from subjectgen.backbones.ready_modulation import BlockModulation
from subjectgen.backbones.references import (
    REFERENCE_GUIDANCE,
    REFERENCE_TIMESTEP,
    CachedStreams,
    cached,
    same_references,
    visible_references,
)
from subjectgen.backbones.sequences import (
    Tokens,
    attention_arguments,
    attention_mask,
    context_tokens,
    reference_tokens,
    target_tokens,
)
from subjectgen.core import ComponentError, InputError, StepConditions, Streams

if TYPE_CHECKING:
    from subjectgen.backbones.flux import FluxBackbone


class StepInputs(NamedTuple):
    """What a forward is asked with beside tokens; as :class:`StepConditions`, with a timestep for each row."""

    timestep: Float[Tensor, " b"]
    pooled: Float[Tensor, "b p"] | None
    guidance: float | None

    def __str__(self) -> str:
        each = (StepConditions(time, self.pooled, self.guidance) for time in sorted(set(self.timestep.tolist())))
        return ", ".join(map(str, each))


class Denoiser:
    """A FLUX backbone for one denoising. It is called as the backbone is, and changes nothing of it.

    Forwards without gradients whose conditions are in the table look their modulation up; others compute it. The
    table is of the weights as they were, so a denoiser is not for use across a step of training.
    """

    def __init__(
        self, backbone: FluxBackbone, table: ModulationTable | None = None, *, isolates: bool | None = None
    ) -> None:
        """Use a backbone.

        Args:
            backbone: Whose weights.
            table: Modulation of the steps to come; ``None``: all is computed as usual.
            isolates: Whether references are isolated; ``None``: as the backbone's config says.
        """
        self._isolates = backbone.isolated if isolates is None else isolates
        self._backbone, self._transformer, self._table = backbone, backbone.transformer, table
        self.context_width = backbone.context_width
        self.pooled_width = backbone.pooled_width
        self.latent_channels = backbone.latent_channels
        self.patch_size = backbone.patch_size
        self.guidance_embedded = backbone.guidance_embedded
        self.attention_sites = backbone.attention_sites

    def __call__(
        self,
        latents: Float[Tensor, "b c h w"],
        timestep: Float[Tensor, " b"],
        streams: Streams,
        *,
        guidance: float | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """As :meth:`FluxBackbone.forward`."""
        grid = self._checked_grid(latents, streams)
        packed = pack_latents(latents.to(self._transformer.x_embedder.weight.dtype), self.patch_size)
        target = target_tokens(packed, grid)
        context = context_tokens(streams.context, like=packed, width=self.context_width)
        references = self._references(streams, like=packed)
        keys_values = self._isolated(streams, references)
        isolated = keys_values is not None
        velocity = self._transform(
            target if isolated else target.followed_by(references),
            context,
            StepInputs(timestep, streams.pooled, guidance),
            references=0 if isolated or self._backbone.config.reference_time == "same" else len(references),
            arguments=attention_arguments(streams, context, target, references, isolated=isolated),
            by_site=None if keys_values is None else [{"references": pair} for pair in keys_values],
        )
        return unpack_latents(velocity[:, : len(target)], grid, self.patch_size).to(latents.dtype)

    @torch.no_grad()
    def cache_references(self, streams: Streams, *, like: Sequence[Streams] = ()) -> Streams:
        """As :meth:`FluxBackbone.cache_references`."""
        if not self._isolates or not streams.references:
            return streams
        for other in like:
            if isinstance(other, CachedStreams) and other.valid and same_references(other, streams):
                return cached(streams, other.keys_values, other.weights)
        like_weights = streams.references[0].tokens[:, :0].to(self._transformer.x_embedder.weight)
        keys_values = self._isolated(streams, self._references(streams, like=like_weights))
        if keys_values is None:
            return streams
        # compiled blocks may write their next answer where this one is
        keys_values = tuple(KeysValues(k.clone(), v.clone()) for k, v in keys_values)
        return cached(streams, keys_values, tuple(self._transformer.parameters()))

    def _references(self, streams: Streams, *, like: Tensor) -> Tokens:
        return reference_tokens(streams, self._backbone.config.reference_offset, like=like)

    def _isolated(self, streams: Streams, references: Tokens) -> tuple[KeysValues, ...] | None:
        """Keys and values of references in every attention, kept or computed; ``None`` if they are plain tokens."""
        if not self._isolates or not len(references):
            return None
        if isinstance(streams, CachedStreams) and not torch.is_grad_enabled() and streams.valid:
            return streams.keys_values
        mask = attention_mask((visible_references(references.mask),))
        records: list[list[KeysValues | None]] = [[] for _ in self.attention_sites]
        own = reference_conditions(guidance=self.guidance_embedded)
        self._transform(
            references,
            context_tokens((), like=references.values, width=self.context_width),
            StepInputs(torch.full((len(references.values),), own.timestep), own.pooled, own.guidance),
            arguments=None if mask is None else {"attention_mask": mask},
            by_site=[{"record": record} for record in records],
        )
        return tuple(take(record) for record in records)

    def _transform(
        self,
        image: Tokens,
        context: Tokens,
        inputs: StepInputs,
        *,
        references: int = 0,
        arguments: dict[str, Any] | None,
        by_site: Sequence[dict[str, Any]] | None,
    ) -> Float[Tensor, "b n q"]:
        """The transformer's answer for all image tokens, the last ``references`` of which are clean."""
        like = image.values
        strength = self._strength(inputs.guidance, like=like)
        modulation, clean = self._ready(inputs, like.device), None
        if references and modulation is not None:
            clean = self._ready(inputs._replace(timestep=torch.zeros_like(inputs.timestep)), like.device)
            modulation = modulation if clean is not None else None
        (velocity,) = self._transformer(
            hidden_states=like,
            encoder_hidden_states=context.values,
            pooled_projections=None if modulation else self._pooled(inputs.pooled, like=like),
            timestep=inputs.timestep.to(like),  # diffusers multiplies by 1000 itself
            guidance=strength,
            txt_ids=context.position_ids,
            img_ids=image.position_ids,
            joint_attention_kwargs=arguments,
            by_site=by_site,
            modulation=modulation,
            references=references,
            clean=clean,
            return_dict=False,
        )
        return velocity

    def _ready(self, inputs: StepInputs, device: torch.device) -> tuple[BlockModulation, ...] | None:
        """Modulation from the table; ``None`` where it is to be computed as usual."""
        if self._table is not None and not torch.is_grad_enabled():
            found = self._table.find(inputs.timestep, inputs.pooled, inputs.guidance, device=device)
            if found is not None:
                return found
        place = next(self._transformer.time_text_embed.parameters()).device
        if place != self._transformer.x_embedder.weight.device:
            raise ComponentError(
                f"backbone 'flux': the modulation weights stayed on {place}, and {inputs} is not prepared"
                f" ({self._table or 'nothing is'}); add it to prepare(), run without gradients, or move them"
            )
        return None

    def _checked_grid(self, latents: Tensor, streams: Streams) -> tuple[int, int]:
        grid = token_grid(latents.shape[-2], latents.shape[-1], self.patch_size)
        if grid != streams.target_grid:
            raise InputError(f"streams.target_grid is {streams.target_grid}, but the latents have {grid} tokens")
        return grid

    def _pooled(self, pooled: Tensor | None, *, like: Tensor) -> Float[Tensor, "b p"]:
        given = self._backbone.pooled_if_none.expand(len(like), -1) if pooled is None else pooled
        return given.to(like)

    def _strength(self, guidance: float | None, *, like: Tensor) -> Float[Tensor, " b"] | None:
        if (guidance is None) == self.guidance_embedded:
            has, expected = ("a", "a number") if self.guidance_embedded else ("no", "null")
            raise InputError(
                f"guidance.embedded: got {guidance}; the backbone has {has} guidance input, expected {expected}"
            )
        return None if guidance is None else like.new_full((len(like),), guidance)


def reference_conditions(*, guidance: bool) -> StepConditions:
    """What isolated references are always asked with; ``guidance``: whether the backbone has that input."""
    return StepConditions(REFERENCE_TIMESTEP, None, REFERENCE_GUIDANCE if guidance else None)
