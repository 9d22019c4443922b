"""CLIP vision towers from a checkpoint or from sizes, all of the weights or an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from subjectgen.core import ChangesWeights, Config
from subjectgen.core.weights import Checkpoint, Precision, load_transformers

MODEL_TYPES = ("clip", "clip_vision_model")


class ClipArchitecture(Config):
    """Size of a CLIP vision tower; field names are transformers', the defaults ViT-L/14-336's."""

    hidden_size: ChangesWeights[int] = Field(default=1024, ge=1)
    """Channels."""
    intermediate_size: ChangesWeights[int] = Field(default=4096, ge=1)
    """Channels inside the feed-forward."""
    num_hidden_layers: ChangesWeights[int] = Field(default=24, ge=1)
    """Blocks, M."""
    num_attention_heads: ChangesWeights[int] = Field(default=16, ge=1)
    """Attention heads."""
    image_size: ChangesWeights[int] = Field(default=336, ge=1)
    """Pixels of the square picture's side."""
    patch_size: ChangesWeights[int] = Field(default=14, ge=1)
    """Pixels of a patch's side."""

    @model_validator(mode="after")
    def _a_patch_fits(self) -> ClipArchitecture:
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size: got {self.patch_size}; expected at most image_size, {self.image_size}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads: got {self.num_attention_heads}; expected a divisor of hidden_size, "
                f"{self.hidden_size}"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and deviation of each colour, CLIP's own unless the checkpoint says otherwise."""

    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def normalize(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """Standardize RGB in [0, 1]."""
        mean, std = (image.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (image - mean) / std


def new_tower(architecture: ClipArchitecture, *, dtype: torch.dtype) -> CLIPVisionModel:
    """A tower with random weights."""
    return CLIPVisionModel(CLIPVisionConfig(**architecture.model_dump())).to(dtype)


def load_tower(checkpoint: Checkpoint, *, dtype: Precision) -> Any:
    """Load the vision tower of a CLIP model, or a vision tower alone; safetensors only.

    Raises:
        CheckpointError: nothing there, another kind of model, unreadable, or weights missing.
    """
    return load_transformers(CLIPVisionModel, checkpoint, model_types=MODEL_TYPES, dtype=dtype)


def load_statistics(checkpoint: Checkpoint) -> Statistics:
    """Read mean and deviation from ``preprocessor_config.json``; CLIP's own where there is no such file.

    Raises:
        CheckpointError: a file that is no JSON.
    """
    values, default = checkpoint.json("preprocessor_config.json") or {}, Statistics()
    return Statistics(
        mean=tuple(values.get("image_mean", default.mean)), std=tuple(values.get("image_std", default.std))
    )
