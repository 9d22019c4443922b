"""Qwen-Image's transformer (arXiv 2508.02324) at any size, as a backbone: no pooled vector, the image in front of the
text, positions from the shapes of all pictures.

Shape letters: b batch, c latent channels, h w latent size, n tokens of a picture, l context tokens, d context width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from subjectgen.core import (
    AttentionSite,
    ChangesNothing,
    ChangesWeights,
    CheckpointError,
    Config as BaseConfig,
    InputError,
    Streams,
    TokenGroup,
)
from subjectgen_example_qwen.attention import JointAttention

FILE = "qwen.safetensors"
PATCH = 2


class QwenBackbone(nn.Module):
    """Velocity of rectified flow from a new Qwen-Image transformer, all of it trained."""

    class Config(BaseConfig):
        """Its size."""

        layers: ChangesWeights[int] = Field(default=2, ge=1)
        """Blocks."""
        heads: ChangesWeights[int] = Field(default=4, ge=1)
        """Attention heads of width 16."""
        context_width: ChangesWeights[int] = Field(default=64, ge=1)
        """Width of the context tokens."""
        latent_channels: ChangesWeights[int] = Field(default=16, ge=1)
        """Channels of the autoencoder."""
        gradient_checkpointing: ChangesNothing[bool] = False
        """Whether blocks are computed again in the backward pass."""

    pooled_width = None
    patch_size = PATCH
    guidance_embedded = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.context_width, self.latent_channels = config.context_width, config.latent_channels
        self.gradient_checkpointing = config.gradient_checkpointing
        self.transformer = QwenImageTransformer2DModel(
            patch_size=PATCH,
            in_channels=PATCH**2 * config.latent_channels,
            out_channels=config.latent_channels,
            num_layers=config.layers,
            attention_head_dim=16,
            num_attention_heads=config.heads,
            joint_attention_dim=config.context_width,
            axes_dims_rope=(4, 6, 6),
        )
        for number, block in enumerate(self.transformer.transformer_blocks):
            block.attn.set_processor(JointAttention(number))
        names = [f"transformer_blocks.{number}.attn" for number in range(config.layers)]
        self.attention_sites = tuple(AttentionSite(name=name, heads=config.heads, head_width=16) for name in names)
        if config.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()

    def forward(self, latents: Tensor, timestep: Tensor, streams: Streams, *, guidance: float | None = None) -> Tensor:
        """Velocity (b, c, h, w) at ``timestep`` (b,); references follow the target, as in Qwen-Image-Edit."""
        if guidance is not None:
            raise InputError(f"guidance.embedded: got {guidance}; Qwen-Image has no guidance input, expected null")
        target = packed(latents)
        # a reference that nobody sees would still move the text, whose positions begin past the largest picture
        references = [group for group in streams.references if bool(group.mask.any())]
        context = _context(streams.context, like=target, width=self.context_width)
        image = torch.cat([target, *(group.tokens.to(target) for group in references)], dim=1)
        shapes = [(1, *streams.target_grid), *((1, *grid) for grid in map(_grid, references))]
        (velocity,) = self.transformer(
            hidden_states=image,
            encoder_hidden_states=context.tokens,
            timestep=timestep.to(target),
            img_shapes=[shapes] * len(latents),
            attention_kwargs={
                "attention_mask": _mask(target, references, context),
                "target": target.shape[1],
                "additions": streams.attention,
            },
            return_dict=False,
        )
        return unpacked(velocity[:, : target.shape[1]], streams.target_grid).to(latents.dtype)

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """All of it."""
        return dict(self.transformer.named_parameters())

    def save_trained(self, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
        """One safetensors file."""
        chosen = self.trainable_parameters() if values is None else values
        save_file({name: value.detach().contiguous() for name, value in chosen.items()}, folder / FILE)

    def load_trained(self, folder: Path) -> None:
        """Read it again; names and shapes must be the same."""
        try:
            self.transformer.load_state_dict(load_file(folder / FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{folder / FILE}: {error}") from error


def packed(latents: Tensor) -> Tensor:
    """Patches of 2 x 2 (b, c, h, w) as tokens (b, n, 4 c), row by row."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, -1, channels * PATCH**2)


def unpacked(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of :func:`packed`, for this many rows and columns."""
    patches = tokens.view(len(tokens), *grid, -1, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(len(tokens), -1, PATCH * grid[0], PATCH * grid[1])


def _context(groups: Sequence[TokenGroup], *, like: Tensor, width: int) -> TokenGroup:
    """All context as one group; behind it a token that nobody sees, for the transformer cannot do without any."""
    values = [group.tokens.to(like) for group in groups]
    masks = [group.mask.to(like.device) for group in groups]
    none = torch.zeros(len(like), 1, dtype=torch.bool, device=like.device)
    return TokenGroup(
        tokens=torch.cat([*values, like.new_zeros(len(like), 1, width)], dim=1), mask=torch.cat([*masks, none], dim=1)
    )


def _mask(target: Tensor, references: Sequence[TokenGroup], context: TokenGroup) -> Tensor:
    """Which keys count (b, 1, 1, n + l), the image's before the context's."""
    seen = torch.ones(target.shape[:2], dtype=torch.bool, device=target.device)
    masks = [seen, *(group.mask.to(target.device) for group in references), context.mask]
    return torch.cat(masks, dim=1)[:, None, None]


def _grid(group: TokenGroup) -> Any:
    if group.grid is None:
        raise InputError(f"reference {group.reference} has no grid; expected rows and columns")
    return group.grid
