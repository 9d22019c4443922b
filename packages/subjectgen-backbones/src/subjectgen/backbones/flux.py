"""FLUX.1 as a velocity model: diffusers' transformer at any size, with optional LoRA (Squeeze-MLLM 3.5, method 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.backbones.attention import attention_sites, install_additions
from subjectgen.backbones.checkpointing import enable_checkpointing
from subjectgen.backbones.compilation import compile_blocks
from subjectgen.backbones.denoiser import Denoiser, reference_conditions
from subjectgen.backbones.lora import add_lora
from subjectgen.backbones.modulation import ModulationTable, modulation_layers
from subjectgen.backbones.options import Checkpointing, FluxConfig
from subjectgen.backbones.references import REFERENCE_TIMESTEP
from subjectgen.backbones.site_transformer import FluxTransformer2DModel
from subjectgen.backbones.split_modulation import take_split_modulation
from subjectgen.backbones.trained import TrainedWeights
from subjectgen.backbones.transformer import load_transformer
from subjectgen.core import (
    ComponentError,
    StepConditions,
    Streams,
)


class FluxBackbone(TrainedWeights):
    """Velocity of rectified flow from a FLUX transformer.

    Reference tokens follow the target on the image stream, context tokens fill the text stream; the output is cut to
    the target. Either stream may be empty but for the target.
    """

    Config = FluxConfig

    config: FluxConfig
    patch_size = 2
    unmoved_arguments = ("joint_attention_kwargs", "by_site")
    pooled_if_none: Float[Tensor, " p"]

    def __init__(self, config: FluxConfig) -> None:
        """Build or load the transformer. Random weights are torch's global generator's.

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
        self.pooled_width: int | None = sizes.pooled_projection_dim
        self.latent_channels: int = sizes.in_channels // self.patch_size**2
        self.guidance_embedded: bool = sizes.guidance_embeds
        self.attention_sites = attention_sites(self.transformer)
        self.register_buffer("pooled_if_none", _constant(config, sizes.pooled_projection_dim), persistent=False)
        self._set_up()

    def _set_up(self) -> None:
        """What is trained, what injectors may add, what is computed again, and what is compiled."""
        config = self.config
        self.transformer.requires_grad_(config.full_training)
        if config.lora is not None:
            add_lora(self.transformer, config.lora)
        if config.reference_time == "zero":
            take_split_modulation(self.transformer)
        enable_checkpointing(self.transformer, config.gradient_checkpointing)
        install_additions(self.transformer, apart=bool(config.compile))
        if config.compile:
            compile_blocks(self.transformer, config.compile)

    @property
    def gradient_checkpointing(self) -> Checkpointing:
        """What is computed again in the backward pass."""
        return self.config.gradient_checkpointing

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
            InputError: latents that do not fit ``streams.target_grid``, references without number or grid, or a
                guidance the model has no input for.
            ComponentError: what :meth:`only_prepares` names is on another device.
        """
        return Denoiser(self)(latents, timestep, streams, guidance=guidance)

    @property
    def isolated(self) -> bool:
        """Whether references attend to references only."""
        return self.config.reference_attention == "isolated"

    def full_attention(self) -> Denoiser:
        """The same weights, with all tokens attending to all."""
        return Denoiser(self, isolates=False)

    def prepare(self, conditions: Sequence[StepConditions]) -> Denoiser:
        """The backbone for one denoising: modulation of all these steps is computed now, and looked up then.

        A forward matches a condition if every row's timestep and the guidance have the same value, and the pooled
        vector is the same tensor or equal; a timestep on the CPU is found without waiting for the device. Others are
        computed as usual, and so are forwards with gradients. What isolated references need is added by itself. Any
        number of prepared backbones may be in use at once, in several threads.

        Raises:
            ComponentError: no conditions.
        """
        if not conditions:
            raise ComponentError("backbone 'flux': prepare() got no conditions; expected those of every step")
        own = [reference_conditions(guidance=self.guidance_embedded)] if self.isolated else []
        if self.config.reference_time == "zero":
            own += [replace(one, timestep=REFERENCE_TIMESTEP) for one in conditions]
        return Denoiser(self, ModulationTable(self.transformer, [*conditions, *own], self.pooled_if_none))

    def only_prepares(self) -> Sequence[nn.Module]:
        """The layers that make modulation, 27 % of FLUX.1-dev's weights.

        They may stay on another device for good, if every forward without gradients is of a prepared backbone and
        among its conditions; :meth:`prepare` then copies each to the device in turn.
        """
        return modulation_layers(self.transformer)

    def cache_references(self, streams: Streams, *, like: Sequence[Streams] = ()) -> Streams:
        """Streams that keep their references' keys and values, for all steps; the same streams if nothing is to keep.

        They hold as long as references, target size and weights stay, and have no gradients; else they are computed
        anew. A prepared backbone has the same method, and needs no modulation weights for it.

        Args:
            streams: what enters the backbone.
            like: streams cached before; keys and values of one with equal references are shared.
        """
        return Denoiser(self).cache_references(streams, like=like)


def _constant(config: FluxConfig, width: int) -> Float[Tensor, " p"]:
    """The pooled vector where no branch gives one."""
    if config.constant_pooled == "zeros":
        return torch.zeros(width)
    if len(config.constant_pooled) != width:
        raise ComponentError(
            f"backbone.constant_pooled has {len(config.constant_pooled)} numbers;"
            f" expected {width}, the transformer's pooled width"
        )
    return torch.tensor(config.constant_pooled)


def _build_transformer(config: FluxConfig) -> FluxTransformer2DModel:
    dtype: torch.dtype = getattr(torch, config.dtype)
    if config.checkpoint is not None:
        places = {"subfolder": config.subfolder, "revision": config.revision}
        return load_transformer(config.checkpoint, dtype=dtype, **places)
    assert config.architecture is not None  # the Config's own rule
    transformer = FluxTransformer2DModel(**config.architecture.model_dump())
    return nn.Module.to(transformer, dtype)  # diffusers' own `to` warns of a list of exceptions that is empty
