"""FLUX.1 as a velocity model: diffusers' transformer at any size, with optional LoRA (Squeeze-MLLM 3.5, method 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import FluxTransformer2DModel
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from subjectgen.backbones.attention import attention_sites, install_additions
from subjectgen.backbones.lora import LoRASettings, add_lora, load_lora, lora_parameters, merge_lora, save_lora
from subjectgen.backbones.packing import pack_latents, target_position_ids, token_grid, unpack_latents
from subjectgen.backbones.sequences import attention_mask, join_groups
from subjectgen.backbones.transformer import FluxArchitecture, copy_weights, load_transformer
from subjectgen.core import (
    AttentionLayout,
    CheckpointError,
    ComponentError,
    Config as BaseConfig,
    InputError,
    Streams,
    resolve_checkpoint,
)
from subjectgen.core.checkpoint import atomic_folder

LORA_FILE = "lora.safetensors"
TRANSFORMER_FOLDER = "transformer"


class FluxBackbone(nn.Module):
    """Velocity of rectified flow from a FLUX transformer.

    Reference tokens follow the target on the image stream, context tokens fill the text stream; the output is cut to
    the target. Either stream may be empty but for the target.
    """

    class Config(BaseConfig):
        """Where the weights come from and what is trained. Exactly one of ``checkpoint`` and ``architecture``."""

        checkpoint: str | None = None
        """Folder or hub id of a FluxTransformer2DModel in diffusers' format."""
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
        gradient_checkpointing: bool = False
        """Recompute each block in the backward pass: less memory, about a third more time."""

        @model_validator(mode="after")
        def _one_source(self) -> FluxBackbone.Config:
            if (self.checkpoint is None) == (self.architecture is None):
                given = "both" if self.checkpoint is not None else "neither"
                raise ValueError(f"checkpoint and architecture: {given} given; expected exactly one of the two")
            if self.full_training and self.lora is not None:
                raise ValueError("full_training and lora: both given; expected at most one of the two")
            return self

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
        self._prepare_training()
        install_additions(self.transformer)

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
        target_ids = target_position_ids(grid, device=latents.device)
        velocity = self.transformer(
            hidden_states=torch.cat((target, references.tokens), dim=1),
            encoder_hidden_states=context.tokens,
            pooled_projections=self._pooled(streams, like=target),
            timestep=timestep.to(target),  # diffusers multiplies by 1000 itself
            guidance=self._guidance(guidance, like=target),
            txt_ids=context.position_ids,
            img_ids=torch.cat((target_ids, references.position_ids)),
            joint_attention_kwargs=_attention_arguments(streams, context.mask, target, references.mask),
            return_dict=False,
        )[0]
        return unpack_latents(velocity[:, : target.shape[1]], grid, self.patch_size).to(latents.dtype)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, by name: the adapter's parameters, all, or none."""
        if self.config.full_training:
            return {f"{TRANSFORMER_FOLDER}.{name}": p for name, p in self.transformer.named_parameters()}
        return lora_parameters(self.transformer)

    def save_trained(self, folder: str | Path) -> None:
        """Write what training changes: ``lora.safetensors``, or the folder ``transformer``, both as diffusers does."""
        if self.config.full_training:
            with atomic_folder(Path(folder) / TRANSFORMER_FOLDER) as unfinished:
                self.transformer.save_pretrained(unfinished, safe_serialization=True)
        elif self.config.lora is not None:
            self._refuse_merged()
            save_lora(self.transformer, self.config.lora, Path(folder) / LORA_FILE)

    def load_trained(self, folder: str | Path) -> None:
        """Read what :meth:`save_trained` wrote.

        Raises:
            CheckpointError: weights that are missing, unreadable, or were made with other settings.
        """
        folder = Path(folder)
        if self.config.full_training:
            place = resolve_checkpoint(str((folder / TRANSFORMER_FOLDER).absolute()))
            loaded = load_transformer(place, dtype=self.transformer.x_embedder.weight.dtype)
            copy_weights(loaded, self.transformer, place)
        elif self.config.lora is not None:
            self._refuse_merged()
            load_lora(self.transformer, self.config.lora, folder / LORA_FILE)
        elif (folder / LORA_FILE).exists():
            raise CheckpointError(f"{folder / LORA_FILE}: the backbone has no adapter; set backbone.lora to load it")

    def merge_lora(self) -> None:
        """Fold the adapter into the weights for faster sampling; it can no longer be trained or saved."""
        if lora_parameters(self.transformer):
            merge_lora(self.transformer)

    def _refuse_merged(self) -> None:
        if not lora_parameters(self.transformer):
            raise ComponentError("backbone 'flux': the adapter was merged; save or load it before merge_lora()")

    def _prepare_training(self) -> None:
        self.transformer.requires_grad_(self.config.full_training)
        if self.config.lora is not None:
            add_lora(self.transformer, self.config.lora)
        if self.config.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()

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

    def _pooled(self, streams: Streams, *, like: Tensor) -> Float[Tensor, "b p"]:
        pooled = self.pooled_if_none.expand(like.shape[0], -1) if streams.pooled is None else streams.pooled
        return pooled.to(like)

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
        source = resolve_checkpoint(config.checkpoint, revision=config.revision)
        return load_transformer(source, dtype=dtype, subfolder=config.subfolder, revision=config.revision)
    assert config.architecture is not None  # the Config's own rule
    transformer = FluxTransformer2DModel(**config.architecture.model_dump())
    return nn.Module.to(transformer, dtype)  # diffusers' own `to` warns of a list of exceptions that is empty


def _attention_arguments(
    streams: Streams, context: Tensor, target: Tensor, references: Tensor
) -> dict[str, Any] | None:
    """What attention processors get; the order of tokens in attention is context, target, references."""
    arguments: dict[str, Any] = {}
    mask = attention_mask((context, context.new_ones(target.shape[:2]), references))
    if mask is not None:
        arguments["attention_mask"] = mask
    if streams.attention:
        start, end = context.shape[1], context.shape[1] + target.shape[1]
        arguments["additions"] = streams.attention
        arguments["layout"] = AttentionLayout(
            context=slice(0, start), target=slice(start, end), references=slice(end, end + references.shape[1])
        )
    return arguments or None
