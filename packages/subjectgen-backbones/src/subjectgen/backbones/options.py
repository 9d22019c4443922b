"""What a FLUX backbone may be told. Light at import, so that a file is checked without the libraries that run it."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from subjectgen.core import ChangesNothing, ChangesResults, ChangesWeights, Config

Checkpointing: TypeAlias = bool | Literal["selective"] | Annotated[int, Field(ge=2)]
"""No or every block, every block but its attention, or every n-th block."""
CompileMode: TypeAlias = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
"""Modes of ``torch.compile``; ``reduce-overhead`` and ``max-autotune`` use CUDA graphs."""
ReferenceOffset: TypeAlias = Literal["diagonal", "rows", "columns", "none"]
"""Axes that are shifted past the target and earlier references: both, one, or none (UNO's d, h, w, o)."""


class FluxArchitecture(Config):
    """Size of a FLUX transformer; the defaults are FLUX.1-dev's. Field names are diffusers'."""

    in_channels: ChangesWeights[int] = Field(default=64, ge=4, multiple_of=4)
    """Channels of a packed token: 4 times the latent channels."""
    num_layers: ChangesWeights[int] = Field(default=19, ge=0)
    """Double blocks: text and image each have their own weights."""
    num_single_layers: ChangesWeights[int] = Field(default=38, ge=0)
    """Single blocks: text and image share weights."""
    attention_head_dim: ChangesWeights[int] = Field(default=128, ge=2)
    """Width of one attention head; equals the sum of ``axes_dims_rope``."""
    num_attention_heads: ChangesWeights[int] = Field(default=24, ge=1)
    """Attention heads."""
    joint_attention_dim: ChangesWeights[int] = Field(default=4096, ge=1)
    """Width of the context tokens."""
    pooled_projection_dim: ChangesWeights[int] = Field(default=768, ge=1)
    """Width of the pooled vector."""
    guidance_embeds: ChangesWeights[bool] = True
    """Whether there is a guidance input."""
    axes_dims_rope: ChangesWeights[tuple[int, int, int]] = (16, 56, 56)
    """Channels of a head that tell the position on each axis; even numbers."""

    @model_validator(mode="after")
    def _axes_fill_the_head(self) -> FluxArchitecture:
        if sum(self.axes_dims_rope) != self.attention_head_dim or any(size % 2 for size in self.axes_dims_rope):
            raise ValueError(
                f"axes_dims_rope {list(self.axes_dims_rope)}: expected even numbers that add up to"
                f" attention_head_dim = {self.attention_head_dim}"
            )
        return self


class LoRASettings(Config):
    """An adapter's size and place."""

    rank: ChangesWeights[int] = Field(default=512, ge=1)
    """Rank r of every update B·A (Squeeze-MLLM 4.1: 512)."""
    alpha: ChangesWeights[float | None] = Field(default=None, gt=0)
    """Scale of the update is alpha / rank; null: alpha = rank, scale 1."""
    targets: ChangesWeights[Literal["attention", "attention_and_proj_out"]] = "attention"
    """``attention``: all attention projections of double and single blocks. ``attention_and_proj_out``: also the
    output projection of single blocks, as in UNO, which mixes attention and MLP."""

    @property
    def effective_alpha(self) -> float:
        """Alpha with its default filled in."""
        return float(self.rank) if self.alpha is None else self.alpha


class FluxConfig(Config):
    """Where the weights come from and what is trained. Exactly one of ``checkpoint`` and ``architecture``."""

    checkpoint: ChangesNothing[str | None] = None
    """Folder or hub id of a FluxTransformer2DModel in diffusers' format, or a safetensors file in FLUX.1's own."""
    subfolder: ChangesNothing[str | None] = None
    """Folder inside the checkpoint, ``transformer`` for a whole pipeline."""
    revision: ChangesNothing[str | None] = None
    """Branch, tag or commit of a hub checkpoint."""
    architecture: ChangesWeights[FluxArchitecture | None] = None
    """Size of a new transformer with random weights."""
    dtype: ChangesResults[Literal["float32", "bfloat16", "float16"]] = "float32"
    """Precision of the transformer's weights; an adapter's are float32."""
    lora: ChangesWeights[LoRASettings | None] = None
    """Adapter on the attention projections; null: none."""
    full_training: ChangesWeights[bool] = False
    """Train every weight (pretraining); otherwise all but the adapter is frozen."""
    constant_pooled: ChangesWeights[Literal["zeros"] | tuple[float, ...]] = "zeros"
    """Pooled vector when no branch gives one: zeros, or its numbers."""
    gradient_checkpointing: ChangesNothing[Checkpointing] = False
    """What is computed again in the backward pass instead of kept. ``true``: every block, about a third more time.
    ``selective``: every block but its attention, less time for 1.4 times the activations of ``true`` (`subjectgen
    plan`, full model). A number n: every n-th block."""
    reference_attention: ChangesWeights[Literal["full", "isolated"]] = "full"
    """``full``: all tokens attend to all, as in UNO. ``isolated``: reference tokens attend to references only, at
    timestep 0, so that :meth:`cache_references` computes their keys and values once for all steps; needs a model
    that was trained so."""
    reference_time: ChangesWeights[Literal["same", "zero"]] = "same"
    """How reference tokens are modulated where all tokens attend to all. ``same``: at the step's t, as in UNO.
    ``zero``: as clean images, at t = 0, as FLUX.3 and Qwen-Image-2.1 do. Isolated references are always at 0."""
    reference_offset: ChangesWeights[ReferenceOffset] = "diagonal"
    """Axes on which references are shifted past the target and earlier references: both (UNO, 3.3), ``rows``,
    ``columns`` or ``none``."""
    compile: ChangesNothing[bool | CompileMode] = False
    """Compile the repeated blocks with ``torch.compile``: no, in its default mode, or in this mode. Each shape of
    input is compiled once."""

    @model_validator(mode="after")
    def _one_source(self) -> FluxConfig:
        if (self.checkpoint is None) == (self.architecture is None):
            given = "both" if self.checkpoint is not None else "neither"
            raise ValueError(f"checkpoint and architecture: {given} given; expected exactly one of the two")
        if self.compile and self.reference_time == "zero":
            raise ValueError("compile and reference_time: zero: such blocks are not compiled; remove one")
        if self.full_training and self.lora is not None:
            raise ValueError("full_training and lora: both given; expected at most one of the two")
        return self
