"""Image cross-attention added inside every block of the backbone (DynaIP 3.2, 4.1 and 4.3).

Each reference C_i has keys and values of its own in every attention; they are computed once per image. What the noisy
image reads from them is added to the attention's output before its projection:
X^MMA + sum_i lambda_i M_i CA(X, C_i) (Eq. 9). In training the text tokens read too (Eq. 4-5); leaving them out at
inference is the dynamic decoupling (Eq. 2-3).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from subjectgen.core import (
    Backbone,
    ChangesResults,
    ChangesWeights,
    ComponentError,
    Conditioning,
    Config as BaseConfig,
    InputError,
    Latents,
    Placement,
    Streams,
)
from subjectgen_dynaip.addition import CrossAttention, Speaker
from subjectgen_dynaip.grouping import TokensByReference, by_reference

Stream: TypeAlias = Literal["text", "image", "references"]


class CrossAttentionInjector(nn.Module):
    """New keys and values of the references in every attention of the backbone.

    Values start at zero, so that an untrained injector leaves the backbone exactly as it is.
    """

    class Config(BaseConfig):
        """Who reads from the references, and how strongly."""

        width: ChangesWeights[int] = Field(default=4096, ge=1)
        """Width of the reference tokens; with 4096 FLUX gets the paper's 1.4 billion new parameters."""
        train_streams: ChangesResults[tuple[Stream, ...]] = Field(default=("text", "image"), min_length=1)
        """Tokens that read in training (Eq. 4). ``references``: image tokens of other branches' references."""
        inference_streams: ChangesResults[tuple[Stream, ...]] = Field(default=("image",), min_length=1)
        """Tokens that read at inference; ``[image]`` is the dynamic decoupling, ``[text, image]`` is without it."""
        scale: ChangesResults[float | Annotated[tuple[float, ...], Field(min_length=1)]] = 1.0
        """Lambda of every reference, or one number for each; multiplied by ``Reference.weight``. With one for each,
        tokens of no reference have 1."""
        masks: ChangesResults[Literal["soft", "binary"]] = "soft"
        """A token that a region covers in part: by its share, or wholly from one half on and not at all below."""
        sites: ChangesWeights[tuple[int, ...] | None] = Field(default=None, min_length=1)
        """Attentions that get the addition, counted in running order; null: all (19 double and 38 single in FLUX).
        Trained with the weights: others of the same number are refused."""
        key_norm: ChangesWeights[bool] = False
        """RMS-normalize keys per head, without weights."""
        dtype: ChangesResults[Literal["float32", "bfloat16"]] = "float32"
        """Precision of the new layers; train in float32."""

    accepts = Conditioning
    places_references = True

    def __init__(self, config: Config, *, backbone: Backbone) -> None:
        """Make keys and values for the backbone's attentions; the backbone itself is not changed.

        Raises:
            ComponentError: a backbone without attentions to add to, or a site that it does not have.
        """
        super().__init__()
        self.config = config
        self.width: int = config.width
        self.sites = self._chosen_sites(backbone)
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        widths = [backbone.attention_sites[site].width for site in self.sites]
        names = [str(site) for site in self.sites]  # weights of one site never load into another
        self.keys = nn.ModuleDict({name: self._linear(width) for name, width in zip(names, widths, strict=True)})
        self.values = nn.ModuleDict(
            {name: self._linear(width, zero=True) for name, width in zip(names, widths, strict=True)}
        )
        self._head_widths = [backbone.attention_sites[site].head_width for site in self.sites]

    def forward(self, streams: Streams, conditioning: Conditioning | Latents) -> Streams:
        """The streams with this conditioning's cross-attention added; keys and values are computed here, once.

        Raises:
            ComponentError: latents, tokens of another width, regions without knowing which token is whose, or fewer
                scales than references.
            InputError: a region that ``masks: binary`` leaves without any token.
        """
        if not isinstance(conditioning, Conditioning):
            raise ComponentError("injector 'cross_attention' got latents; expected conditioning tokens")
        if conditioning.tokens.shape[-1] != self.width:
            raise ComponentError(
                f"injector 'cross_attention' got tokens of width {conditioning.tokens.shape[-1]}; expected {self.width}"
            )
        if streams.placement is not None and conditioning.reference is None:
            raise ComponentError(
                "injector 'cross_attention' got regions, but the aggregator does not say which token is of which "
                "reference; expected Conditioning.reference"
            )
        grouped = by_reference(conditioning)
        if grouped is None:
            return streams
        addition = CrossAttention(
            keys_values=dict(zip(self.sites, self._keys_values(grouped), strict=True)),
            mask=grouped.key_mask,
            speakers=[self._speaker(streams, grouped, place) for place in range(len(grouped.references))],
            streams=self.config.train_streams if self.training else self.config.inference_streams,
        )
        return replace(streams, attention=(*streams.attention, addition))

    def _linear(self, width: int, *, zero: bool = False) -> nn.Linear:
        layer = nn.Linear(self.width, width, bias=False, dtype=self.dtype)
        if zero:
            nn.init.zeros_(layer.weight)
        return layer

    def _chosen_sites(self, backbone: Backbone) -> tuple[int, ...]:
        count = len(backbone.attention_sites)
        chosen = self.config.sites if self.config.sites is not None else tuple(range(count))
        if not count:
            raise ComponentError("injector 'cross_attention': the backbone offers no attention to add to")
        wrong = [site for site in chosen if not 0 <= site < count]
        if wrong or len(set(chosen)) < len(chosen):
            problem = f"{wrong[0]} is none of 0-{count - 1}" if wrong else "a site is named twice"
            raise ComponentError(f"injector 'cross_attention': sites: {problem}")
        return chosen

    def _keys_values(self, grouped: TokensByReference) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (b, k, heads, g, e) for each site."""
        tokens = grouped.tokens.to(self.dtype)
        pairs = []
        for key, value, head_width in zip(self.keys.values(), self.values.values(), self._head_widths, strict=True):
            keys, values = (_heads(layer(tokens), head_width) for layer in (key, value))
            if self.config.key_norm:
                keys = nn.functional.rms_norm(keys, (head_width,), eps=1e-6)
            pairs.append((keys, values))
        return pairs

    def _speaker(self, streams: Streams, grouped: TokensByReference, place: int) -> Speaker:
        """How strongly one reference speaks to each row, and where in the target."""
        number = grouped.references[place]
        strength = grouped.present[:, place].to(grouped.tokens.dtype) * self._scale(number)
        if streams.placement is None or number < 0:
            return Speaker.everywhere(strength)
        region = self._region(streams.placement, number)
        return Speaker.within(strength * streams.placement.weights[:, number].to(strength), region.to(strength))

    def _region(self, placement: Placement, number: int) -> Float[Tensor, "b n"]:
        if number >= placement.regions.shape[1]:
            raise ComponentError(
                f"injector 'cross_attention': tokens of reference {number + 1}, but only "
                f"{placement.regions.shape[1]} references are placed"
            )
        soft = placement.regions[:, number].flatten(1)
        if self.config.masks == "soft":
            return soft
        region = (soft >= 0.5).to(soft)
        if bool((soft.any(dim=1) & ~region.any(dim=1)).any()):
            raise InputError(
                f"region of reference {number + 1}: covers no token by half (at most {float(soft.max()):.2f}), so that "
                "masks: binary would leave the reference out; expected a larger region, or masks: soft"
            )
        return region

    def _scale(self, number: int) -> float:
        scale = self.config.scale
        if not isinstance(scale, tuple):
            return scale
        if number < 0:
            return 1.0
        if number >= len(scale):
            raise ComponentError(
                f"injector 'cross_attention': scale has {len(scale)} numbers, but there is a reference {number + 1}"
            )
        return scale[number]


def _heads(tokens: Float[Tensor, "b k g c"], head_width: int) -> Float[Tensor, "b k heads g e"]:
    """Contiguous by head, which attention reads faster; laid out once, read at every step."""
    return tokens.unflatten(-1, (-1, head_width)).transpose(2, 3).contiguous()
