"""FLUX transformers: their size, and their weights from a checkpoint, all of them or an error."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from pydantic import Field, model_validator
from torch import nn

from subjectgen.core import CheckpointError, Config


class FluxArchitecture(Config):
    """Size of a FLUX transformer; the defaults are FLUX.1-dev's. Field names are diffusers'."""

    in_channels: int = Field(default=64, ge=4, multiple_of=4)
    """Channels of a packed token: 4 times the latent channels."""
    num_layers: int = Field(default=19, ge=0)
    """Double blocks: text and image each have their own weights."""
    num_single_layers: int = Field(default=38, ge=0)
    """Single blocks: text and image share weights."""
    attention_head_dim: int = Field(default=128, ge=2)
    """Width of one attention head; equals the sum of ``axes_dims_rope``."""
    num_attention_heads: int = Field(default=24, ge=1)
    """Attention heads."""
    joint_attention_dim: int = Field(default=4096, ge=1)
    """Width of the context tokens."""
    pooled_projection_dim: int = Field(default=768, ge=1)
    """Width of the pooled vector."""
    guidance_embeds: bool = True
    """Whether there is a guidance input."""
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)
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
    """Load diffusers' format from a local folder or a hub id; safetensors only.

    Raises:
        CheckpointError: nothing there, unreadable, or tensors that are missing, unexpected or of another shape.
    """
    name = f"{source}/{subfolder}" if subfolder else source
    _check_local(Path(source), subfolder)
    try:
        transformer, report = FluxTransformer2DModel.from_pretrained(
            source,
            subfolder=subfolder,
            revision=revision,
            torch_dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{name}: cannot be loaded as a FluxTransformer2DModel: {error}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            keys = sorted(str(key) for key in report[problem])
            raise CheckpointError(f"{name}: {len(keys)} {problem.replace('_', ' ')}, such as {keys[0]}")
    return transformer


def _check_local(folder: Path, subfolder: str | None) -> None:
    """A local folder without a configuration would otherwise be looked for on the hub."""
    place = folder / subfolder if subfolder else folder
    if folder.exists() and not (place / "config.json").is_file():
        hint = "; did you mean subfolder 'transformer'?" if (folder / "transformer").is_dir() and not subfolder else ""
        raise CheckpointError(f"{place}: no config.json; expected a FluxTransformer2DModel in diffusers' format{hint}")


def copy_weights(source: nn.Module, target: nn.Module, place: str) -> None:
    """Copy all weights of one transformer into another of the same shape."""
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{place}: does not fit the backbone: {error}") from error
