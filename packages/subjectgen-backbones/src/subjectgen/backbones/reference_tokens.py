"""Reference latents as extra image tokens, packed as the target is (UNO, arXiv 2504.02160)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from subjectgen.backbones.packing import pack_latents, token_grid
from subjectgen.core import Backbone, ComponentError, Conditioning, Config as BaseConfig, Latents, Streams, TokenGroup


class ReferenceTokensInjector(nn.Module):
    """Packs each reference like the target and appends it to the references; where they stand the backbone says.

    References of several branches follow each other and are numbered in that order.
    """

    class Config(BaseConfig):
        """Nothing to set."""

    accepts = Latents

    def __init__(self, config: Config, *, backbone: Backbone) -> None:
        """Take channels and patch size from the backbone; nothing is changed in it."""
        super().__init__()
        self.config = config
        self.width: int = backbone.latent_channels
        self.patch_size: int = backbone.patch_size

    def forward(self, streams: Streams, conditioning: Conditioning | Latents) -> Streams:
        """The streams with one group of tokens per reference.

        Raises:
            ComponentError: latents of another number of channels, or conditioning tokens.
            InputError: latents whose sides are no multiples of the patch size.
        """
        if not isinstance(conditioning, Latents):
            raise ComponentError("injector 'reference_tokens' got conditioning tokens; expected latents (use context)")
        numbered = enumerate(conditioning.values, start=len(streams.references))
        groups = (self._group(latents, number) for number, latents in numbered)
        return replace(streams, references=(*streams.references, *groups))

    def _group(self, latents: Tensor, number: int) -> TokenGroup:
        if latents.shape[1] != self.width:
            raise ComponentError(
                f"injector 'reference_tokens' got latents of {latents.shape[1]} channels;"
                f" the backbone takes {self.width} channels"
            )
        grid = token_grid(latents.shape[-2], latents.shape[-1], self.patch_size)
        tokens = pack_latents(latents, self.patch_size)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return TokenGroup(tokens=tokens, mask=mask, role="reference", reference=number, grid=grid)
