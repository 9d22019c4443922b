"""Options and running of the aggregators that pool over layers, ``lap`` and ``dla``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from subjectgen.aggregators.heads import choose_heads
from subjectgen.aggregators.layer_pooling import LayerPooling
from subjectgen.aggregators.layer_selection import ModalityLayers, ZeroedLayers, select_layers
from subjectgen.aggregators.refiner import Refiner
from subjectgen.core import (
    JSON,
    ChangesNothing,
    ChangesResults,
    ChangesWeights,
    ComponentError,
    Features,
    Modality,
)
from subjectgen.core.aggregating import ConnectedAggregator, ConnectedConfig, TokenPlaces

_MODALITIES = {Modality.TEXT: "text", Modality.IMAGE: "image"}


class LayerwiseConfig(ConnectedConfig):
    """Options of ``lap`` and ``dla``."""

    layers: ChangesWeights[ModalityLayers] = ModalityLayers()
    """Hidden states per modality, e.g. ``{text: 0-28, image: [0-9, 20-28]}``; a plain range is for both."""
    residual: ChangesWeights[bool] = False
    """Add F_M to the pooled tokens (Table 6)."""
    zero_out: ChangesResults[ZeroedLayers] = ZeroedLayers()
    """Hidden states zeroed per modality at inference (Table A); training is not touched."""
    zero_out_mode: ChangesResults[Literal["features", "weights"]] = "features"
    """``features``: F_i = 0 before everything, residual too. ``weights``: the pooling weight of layer i is 0."""
    blocks: ChangesWeights[int] = Field(default=1, ge=1, le=2)
    """Attention blocks over the layer axis; two in UniFusion and Krea 2."""
    feed_forward: ChangesWeights[bool] = False
    """A SwiGLU feed-forward in each block, as in Krea 2; twice the time and memory, for pooling comes after it."""
    qk_norm: ChangesWeights[bool] = False
    """RMSNorm on the queries and keys of each head, as in Krea 2."""
    refiner: ChangesWeights[int] = Field(default=0, ge=0, le=2)
    """Bidirectional blocks over all tokens, after pooling; two in UniFusion and Krea 2."""
    inner_dim: ChangesWeights[int | None] = Field(default=None, ge=1)
    """Width inside, between a linear map at the entrance and the connector; none means the encoder's."""
    heads: ChangesWeights[int | None] = Field(default=None, ge=1)
    """Attention heads; none means heads of 128 channels, or the widest below that divide the width."""
    layer_embedding: ChangesWeights[bool] = False
    """Add a learned vector per layer; otherwise only the pooling weights know the layers' order."""
    gradient_checkpointing: ChangesNothing[bool] = False
    """Recompute the pooling in the backward pass instead of keeping its activations."""


class LayerwiseAggregator(ConnectedAggregator):
    """Runs a :class:`LayerPooling` on the text tokens and one on the image tokens, each on its own layers."""

    def __init__(
        self, config: LayerwiseConfig, *, width: int, depth: int, context_width: int, pooled_width: int | None = None
    ) -> None:
        layers = {
            modality: _select(getattr(config.layers, name), depth, f"layers.{name}")
            for modality, name in _MODALITIES.items()
        }
        last = {depth - 1} if config.residual else set()
        inner_width = config.inner_dim or width
        super().__init__(
            config,
            last.union(*layers.values()),
            width=width,
            depth=depth,
            context_width=context_width,
            pooled_width=pooled_width,
            inner_width=inner_width,
        )
        self.config = config
        self.modality_layers = layers
        self.heads = choose_heads(inner_width, config.heads)
        self.refiner = Refiner(inner_width, blocks=config.refiner, heads=self.heads)
        self.zeroed = {
            modality: frozenset(select_layers(getattr(config.zero_out, name), depth, key=f"zero_out.{name}"))
            for modality, name in _MODALITIES.items()
        }

    @property
    def defining(self) -> Mapping[str, JSON]:
        """Layers, heads and inner width as indices and numbers, however the config says them."""
        resolved: dict[str, JSON] = {"heads": self.heads, "inner_dim": self.config.inner_dim or self.width}
        return resolved | {f"layers.{_MODALITIES[m]}": [*layers] for m, layers in self.modality_layers.items()}

    def aggregate(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Pool each modality's layers; with ``residual``, add F_M; refine."""
        pooled = [self._pool(features, modality, places.only(modality)) for modality in _MODALITIES]
        return self.refiner(torch.cat(pooled), places)

    @torch.no_grad()
    def layer_attention(self, features: Features) -> dict[str, Tensor]:
        """What each modality reads from which layer (Figure 3b); a modality without tokens is left out.

        Returns, for ``text`` and ``image``, of the n layers it uses:
            ``text.layers`` (n): their indices. ``text.attention`` (n, n): attention of the last block, from the layer
            that reads (row) to the layer that is read (column), mean over tokens and heads. ``text.weights`` (n):
            signed pooling weights. ``text.effective`` (n): weights @ attention, the weight with which each layer enters
            the pooled value.
        """
        self.check(features)
        maps: dict[str, Tensor] = {}
        every = TokenPlaces.of(features)
        for modality, name in _MODALITIES.items():
            places = every.only(modality)
            if len(places.index):
                found = self._attention_maps(features, modality, places)
                maps |= {f"{name}.{key}": value for key, value in found.items()}
        return maps

    @abstractmethod
    def pooling(self, modality: Modality) -> LayerPooling:
        """The module that pools this modality's tokens."""

    def build_pooling(self, layers: tuple[int, ...]) -> LayerPooling:
        """Make a :class:`LayerPooling` over these layers as the config says."""
        config = self.config
        return LayerPooling(
            self.width,
            layers=layers,
            inner_width=config.inner_dim or self.width,
            heads=self.heads,
            blocks=config.blocks,
            feed_forward=config.feed_forward,
            qk_norm=config.qk_norm,
            layer_embedding=config.layer_embedding,
        )

    def _zeroed(self, modality: Modality, mode: str) -> frozenset[int]:
        active = not self.training and self.config.zero_out_mode == mode
        return self.zeroed[modality] if active else frozenset()

    def _pool(self, features: Features, modality: Modality, places: TokenPlaces) -> Float[Tensor, "t c"]:
        if self.config.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._pool_layers, features, modality, places, use_reentrant=False)
        return self._pool_layers(features, modality, places)

    def _pool_layers(self, features: Features, modality: Modality, places: TokenPlaces) -> Float[Tensor, "t c"]:
        pooling = self.pooling(modality)
        zeroed = self._zeroed(modality, "features")
        unweighted = self._zeroed(modality, "weights")
        layers = self.modality_layers[modality]
        pooled = pooling(features, places, layers, zeroed=zeroed, unweighted=unweighted)
        if self.config.residual:
            pooled = pooled + pooling.enter(features, places, self.depth - 1, zeroed)
        return pooled

    def _attention_maps(self, features: Features, modality: Modality, places: TokenPlaces) -> dict[str, Tensor]:
        layers = self.modality_layers[modality]
        pooling = self.pooling(modality)
        attention = pooling.attention(features, places, layers, zeroed=self._zeroed(modality, "features"))
        weights = pooling.pooling_weights(layers, self._zeroed(modality, "weights"))
        index = torch.tensor(layers, device=attention.device)
        return {"layers": index, "attention": attention, "weights": weights, "effective": weights @ attention}


def _select(layers: Any, depth: int, key: str) -> tuple[int, ...]:
    selected = select_layers(layers, depth, key=key)
    if not selected:
        raise ComponentError(f"{key}: no layer is selected; valid are 0-{depth - 1}")
    return selected
