"""Reference latents as extra image tokens after the target, with their own positions (UNO, arXiv 2504.02160)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from subjectgen.backbones.packing import diagonal_position_ids, pack_latents, token_grid
from subjectgen.core import Backbone, ComponentError, Conditioning, Config as BaseConfig, Latents, Streams, TokenGroup


class ReferenceTokensInjector(nn.Module):
    """Packs each reference like the target and appends it to the image stream.

    References of several branches follow each other: each is shifted past the target and all before it.
    """

    class Config(BaseConfig):
        """Where references stand in position space."""

        offset: Literal["diagonal", "rows", "columns", "none"] = "diagonal"
        """Axes that are shifted past the target and earlier references: both, one, or none (UNO's d, h, w, o)."""

    accepts = Latents

    def __init__(self, config: Config, *, backbone: Backbone) -> None:
        """Take channels and patch size from the backbone; nothing is changed in it."""
        super().__init__()
        self.config = config
        self.width: int = backbone.latent_channels
        self.patch_size: int = backbone.patch_size

    def forward(self, streams: Streams, conditioning: Conditioning | Latents) -> Streams:
        """The streams with one group of image tokens per reference.

        Raises:
            ComponentError: latents of another number of channels, or conditioning tokens.
            InputError: latents whose sides are no multiples of the patch size.
        """
        if not isinstance(conditioning, Latents):
            raise ComponentError("injector 'reference_tokens' got conditioning tokens; expected latents (use context)")
        grids = tuple(self._grid(value) for value in conditioning.values)
        all_grids = (*streams.image_grids, *grids)
        ids = diagonal_position_ids(
            streams.target_grid,
            all_grids,
            shift_rows=self.config.offset in ("diagonal", "rows"),
            shift_columns=self.config.offset in ("diagonal", "columns"),
        )[len(streams.image_grids) :]
        groups = (self._group(value, i) for value, i in zip(conditioning.values, ids, strict=True))
        return replace(streams, image=(*streams.image, *groups), image_grids=all_grids)

    def _grid(self, latents: Tensor) -> tuple[int, int]:
        if latents.shape[1] != self.width:
            raise ComponentError(
                f"injector 'reference_tokens' got latents of {latents.shape[1]} channels;"
                f" the backbone takes {self.width} channels"
            )
        return token_grid(latents.shape[-2], latents.shape[-1], self.patch_size)

    def _group(self, latents: Tensor, position_ids: Tensor) -> TokenGroup:
        tokens = pack_latents(latents, self.patch_size)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return TokenGroup(tokens=tokens, mask=mask, position_ids=position_ids.to(tokens.device))
