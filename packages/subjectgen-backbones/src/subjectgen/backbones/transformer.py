"""FLUX transformers: their size, and their weights from a checkpoint, all of them or an error."""

from __future__ import annotations

import torch
from pydantic import Field, ValidationError, model_validator
from torch import nn

from subjectgen.backbones.single_file import load_single_file
from subjectgen.backbones.site_transformer import FluxTransformer2DModel
from subjectgen.core import ChangesWeights, CheckpointError, Config
from subjectgen.core.errors import one_line
from subjectgen.core.weights import Checkpoint, load_diffusers


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


def load_transformer(
    source: str, *, dtype: torch.dtype, subfolder: str | None = None, revision: str | None = None
) -> FluxTransformer2DModel:
    """Load from a local folder or a hub id in diffusers' format, or from one file in FLUX's own; safetensors only.

    Raises:
        CheckpointError: nothing there, unreadable, another architecture, or tensors that are missing, unexpected or of
            another shape.
    """
    checkpoint = Checkpoint(name=source, subfolder=subfolder or "", revision=revision)
    if checkpoint.path is not None and checkpoint.path.is_file():
        return load_single_file(checkpoint.path, dtype=dtype)
    sizes = checkpoint.config("_class_name", [FluxTransformer2DModel.__name__])
    try:
        FluxArchitecture.model_validate({key: sizes[key] for key in FluxArchitecture.model_fields if key in sizes})
    except ValidationError as error:
        first = error.errors()[0]
        given = f"{first['loc'][0]}: got {first['input']!r}: " if first["loc"] else ""
        raise CheckpointError(f"{checkpoint}: config.json: {given}{first['msg']}") from error
    return load_diffusers(FluxTransformer2DModel, checkpoint, dtype=dtype)


def copy_weights(source: nn.Module, target: nn.Module, place: str) -> None:
    """Copy all weights of one transformer into another of the same shape."""
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{place}: does not fit the backbone: {one_line(error)}") from error
