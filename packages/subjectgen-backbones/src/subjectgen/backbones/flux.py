"""FLUX.1 as a velocity model: diffusers' transformer at any size, with optional LoRA (Squeeze-MLLM 3.5, method 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from subjectgen.backbones.attention import KeysValues, attention_sites, install_additions, take
from subjectgen.backbones.checkpointing import Checkpointing, enable_checkpointing
from subjectgen.backbones.compilation import CompileMode, compile_blocks
from subjectgen.backbones.lora import LoRASettings, add_lora
from subjectgen.backbones.modulation import ModulationTable, modulated
from subjectgen.backbones.packing import pack_latents, target_position_ids, token_grid, unpack_latents
from subjectgen.backbones.references import (
    REFERENCE_GUIDANCE,
    REFERENCE_TIMESTEP,
    CachedStreams,
    cached,
    same_references,
    visible_references,
)
from subjectgen.backbones.sequences import attention_arguments, attention_mask, image_tokens, join_groups
from subjectgen.backbones.site_transformer import FluxTransformer2DModel
from subjectgen.backbones.trained import TrainedWeights
from subjectgen.backbones.transformer import FluxArchitecture, load_transformer
from subjectgen.core import (
    ComponentError,
    Config as BaseConfig,
    InputError,
    StepConditions,
    Streams,
    TokenGroup,
)


class FluxBackbone(TrainedWeights):
    """Velocity of rectified flow from a FLUX transformer.

    Reference tokens follow the target on the image stream, context tokens fill the text stream; the output is cut to
    the target. Either stream may be empty but for the target.
    """

    class Config(BaseConfig):
        """Where the weights come from and what is trained. Exactly one of ``checkpoint`` and ``architecture``."""

        checkpoint: str | None = None
        """Folder or hub id of a FluxTransformer2DModel in diffusers' format, or a safetensors file in FLUX.1's own."""
        subfolder: str | None = None
        """Folder inside the checkpoint, ``transformer`` for a whole pipeline."""
        revision: str | None = None
        """Branch, tag or commit of a hub checkpoint."""
        architecture: FluxArchitecture | None = None
        """Size of a new transformer with random weights."""
        dtype: Literal["float32", "bfloat16", "float16"] = "float32"
        """Precision of the transformer's weights; an adapter's are float32."""
        lora: LoRASettings | None = None
        """Adapter on the attention projections; null: none."""
        full_training: bool = False
        """Train every weight (pretraining); otherwise all but the adapter is frozen."""
        constant_pooled: Literal["zeros"] | tuple[float, ...] = "zeros"
        """Pooled vector when no branch gives one: zeros, or its numbers."""
        gradient_checkpointing: Checkpointing = False
        """What is computed again in the backward pass instead of kept. ``true``: every block, about a third more time.
        ``selective``: every block but its attention, less time for 1.4 times the activations of ``true`` (`subjectgen
        plan`, full model). A number n: every n-th block."""
        reference_attention: Literal["full", "isolated"] = "full"
        """``full``: all tokens attend to all, as in UNO. ``isolated``: reference tokens attend to references only, at
        timestep 0, so that :meth:`cache_references` computes their keys and values once for all steps; needs a model
        that was trained so."""
        compile: bool | CompileMode = False
        """Compile the repeated blocks with ``torch.compile``: no, in its default mode, or in this mode. Each shape of
        input is compiled once."""

        @model_validator(mode="after")
        def _one_source(self) -> FluxBackbone.Config:
            if (self.checkpoint is None) == (self.architecture is None):
                given = "both" if self.checkpoint is not None else "neither"
                raise ValueError(f"checkpoint and architecture: {given} given; expected exactly one of the two")
            if self.full_training and self.lora is not None:
                raise ValueError("full_training and lora: both given; expected at most one of the two")
            return self

    config: Config
    patch_size = 2
    pooled_if_none: Float[Tensor, " p"]

    def __init__(self, config: Config) -> None:
        """Build or load the transformer.

        Raises:
            CheckpointError: weights that are missing or do not fit.
            ComponentError: a transformer or a pooled vector of a kind that cannot be used.
        """
        super().__init__()
        self.config = config
        self.transformer = _build_transformer(config)
        sizes = self.transformer.config
        if sizes.in_channels % self.patch_size**2 or self.transformer.out_channels != sizes.in_channels:
            raise ComponentError(
                f"backbone 'flux': a transformer from {sizes.in_channels} to {self.transformer.out_channels} channels;"
                " expected equal numbers that are multiples of 4 (FLUX.1 Fill, Canny and Depth are other models)"
            )
        self.context_width: int = sizes.joint_attention_dim
        self.pooled_width: int = sizes.pooled_projection_dim
        self.latent_channels: int = sizes.in_channels // self.patch_size**2
        self.guidance_embedded: bool = sizes.guidance_embeds
        self.attention_sites = attention_sites(self.transformer)
        self.register_buffer("pooled_if_none", self._constant_pooled(), persistent=False)
        self._table: ModulationTable | None = None
        self._prepare_training()
        install_additions(self.transformer, apart=bool(config.compile))
        if config.compile:
            compile_blocks(self.transformer, config.compile)

    def forward(
        self,
        latents: Float[Tensor, "b c h w"],
        timestep: Float[Tensor, " b"],
        streams: Streams,
        *,
        guidance: float | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Velocity (noise - data) at ``timestep`` in [0, 1]; 1 is pure noise. ``h`` and ``w`` in latent pixels.

        Raises:
            InputError: latents that do not fit ``streams.target_grid``, or a guidance the model has no input for.
        """
        grid = self._checked_grid(latents, streams)
        target = pack_latents(latents.to(self.transformer.x_embedder.weight.dtype), self.patch_size)
        context = join_groups(streams.context, like=target, width=self.context_width)
        references = join_groups(streams.image, like=target, width=target.shape[-1])
        keys_values = self._isolated(streams, references)
        image = image_tokens(target, target_position_ids(grid, device=latents.device), references, keys_values)
        velocity = self._transform(
            image,
            context,
            timestep=timestep,
            pooled=streams.pooled,
            guidance=guidance,
            arguments=attention_arguments(streams, context.mask, image.mask, target.shape[1], references.mask),
            by_site=None if keys_values is None else [{"references": pair} for pair in keys_values],
        )
        return unpack_latents(velocity[:, : target.shape[1]], grid, self.patch_size).to(latents.dtype)

    @contextmanager
    def prepare(self, requests: Sequence[StepConditions], *, release: bool = False) -> Iterator[None]:
        """Compute the modulation of all these steps now; inside, forwards without gradients look theirs up.

        A forward matches a request if every row's timestep and the guidance have the same value, and the pooled vector
        is the same tensor or equal. Others are computed as usual. What isolated references need is added by itself.

        Args:
            requests: conditions of the forwards to come.
            release: keep the modulation weights (27 % of FLUX.1-dev) on the CPU meanwhile; a forward without a
                matching request is then an error.

        Raises:
            ComponentError: no requests, or inside of another ``prepare``.
        """
        if self._table is not None or not requests:
            problem = "called inside another prepare()" if requests else "got no requests"
            raise ComponentError(f"backbone 'flux': prepare() {problem}; expected every step's conditions, once")
        requests = [*requests, *self._own_conditions()]
        self._table = ModulationTable(self.transformer, requests, self.pooled_if_none, release=release)
        try:
            with self._table.installed():
                yield
        finally:
            self._table = None

    @torch.no_grad()
    def cache_references(self, streams: Streams, *, like: Sequence[Streams] = ()) -> Streams:
        """Streams that keep their references' keys and values, for all steps; the same streams if nothing is to keep.

        They hold as long as references and weights stay, and have no gradients: other references, changed weights and
        forwards with gradients compute them anew. With ``reference_attention: full`` there is nothing to keep.

        Args:
            streams: what enters the backbone.
            like: streams cached before; keys and values of one with equal references are shared.
        """
        if self.config.reference_attention == "full" or not streams.image:
            return streams
        for other in like:
            if isinstance(other, CachedStreams) and other.valid and same_references(other, streams):
                return cached(streams, other.keys_values, other.weights)
        empty = streams.image[0].tokens[:, :0].to(self.transformer.x_embedder.weight)
        keys_values = self._isolated(streams, join_groups(streams.image, like=empty, width=empty.shape[-1]))
        if keys_values is None:
            return streams
        # compiled blocks may write their next answer where this one is
        keys_values = tuple(KeysValues(k.clone(), v.clone()) for k, v in keys_values)
        return cached(streams, keys_values, tuple(self.transformer.parameters()))

    def _transform(
        self,
        image: TokenGroup,
        context: TokenGroup,
        *,
        timestep: Float[Tensor, " b"],
        pooled: Float[Tensor, "b p"] | None,
        guidance: float | None,
        arguments: dict[str, Any] | None,
        by_site: Sequence[dict[str, Any]] | None,
    ) -> Float[Tensor, "b n q"]:
        """The transformer's answer for all image tokens, with modulation from the table where it is there."""
        strength = self._guidance(guidance, like=image.tokens)
        with modulated(self._table, timestep, pooled, guidance) as rows:
            (velocity,) = self.transformer(
                hidden_states=image.tokens,
                encoder_hidden_states=context.tokens,
                pooled_projections=self._pooled(pooled, like=image.tokens) if rows is None else rows,
                timestep=timestep.to(image.tokens),  # diffusers multiplies by 1000 itself
                guidance=strength,
                txt_ids=context.position_ids,
                img_ids=image.position_ids,
                joint_attention_kwargs=arguments,
                by_site=by_site,
                return_dict=False,
            )
        return velocity

    def _own_conditions(self) -> list[StepConditions]:
        if self.config.reference_attention == "full":
            return []
        return [StepConditions(REFERENCE_TIMESTEP, None, REFERENCE_GUIDANCE if self.guidance_embedded else None)]

    def _isolated(self, streams: Streams, references: TokenGroup) -> tuple[KeysValues, ...] | None:
        """Keys and values of references in every attention, kept or computed; ``None`` if they are plain tokens."""
        if self.config.reference_attention == "full" or not references.tokens.shape[1]:
            return None
        if isinstance(streams, CachedStreams) and not torch.is_grad_enabled() and streams.valid:
            return streams.keys_values
        (own,) = self._own_conditions()
        mask = attention_mask((visible_references(references.mask),))
        records: list[list[KeysValues | None]] = [[] for _ in self.attention_sites]
        self._transform(
            references,
            join_groups((), like=references.tokens, width=self.context_width),
            timestep=references.tokens.new_full((len(references.tokens),), own.timestep),
            pooled=own.pooled,
            guidance=own.guidance,
            arguments=None if mask is None else {"attention_mask": mask},
            by_site=[{"record": record} for record in records],
        )
        return tuple(take(record) for record in records)

    def _prepare_training(self) -> None:
        self.transformer.requires_grad_(self.config.full_training)
        if self.config.lora is not None:
            add_lora(self.transformer, self.config.lora)
        if self.config.gradient_checkpointing:
            enable_checkpointing(self.transformer, self.config.gradient_checkpointing)

    def _checked_grid(self, latents: Tensor, streams: Streams) -> tuple[int, int]:
        grid = token_grid(latents.shape[-2], latents.shape[-1], self.patch_size)
        if grid != streams.target_grid:
            raise InputError(f"streams.target_grid is {streams.target_grid}, but the latents have {grid} tokens")
        return grid

    def _constant_pooled(self) -> Float[Tensor, " p"]:
        if self.config.constant_pooled == "zeros":
            return torch.zeros(self.pooled_width)
        if len(self.config.constant_pooled) != self.pooled_width:
            raise ComponentError(
                f"backbone.constant_pooled has {len(self.config.constant_pooled)} numbers;"
                f" expected {self.pooled_width}, the transformer's pooled width"
            )
        return torch.tensor(self.config.constant_pooled)

    def _pooled(self, pooled: Tensor | None, *, like: Tensor) -> Float[Tensor, "b p"]:
        given = self.pooled_if_none.expand(like.shape[0], -1) if pooled is None else pooled
        return given.to(like)

    def _guidance(self, guidance: float | None, *, like: Tensor) -> Float[Tensor, " b"] | None:
        if (guidance is None) == self.guidance_embedded:
            has, expected = ("a", "a number") if self.guidance_embedded else ("no", "null")
            raise InputError(
                f"guidance.embedded: got {guidance}; the backbone has {has} guidance input, expected {expected}"
            )
        return None if guidance is None else like.new_full((like.shape[0],), guidance)


def _build_transformer(config: FluxBackbone.Config) -> FluxTransformer2DModel:
    dtype: torch.dtype = getattr(torch, config.dtype)
    if config.checkpoint is not None:
        places = {"subfolder": config.subfolder, "revision": config.revision}
        return load_transformer(config.checkpoint, dtype=dtype, **places)
    assert config.architecture is not None  # the Config's own rule
    transformer = FluxTransformer2DModel(**config.architecture.model_dump())
    return nn.Module.to(transformer, dtype)  # diffusers' own `to` warns of a list of exceptions that is empty
