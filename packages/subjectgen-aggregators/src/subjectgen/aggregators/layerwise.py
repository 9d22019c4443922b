"""Options and running of the aggregators that pool over layers, ``lap`` and ``dla``."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from subjectgen.aggregators.base import AggregatorConfig, TokenAggregator, token_places
from subjectgen.aggregators.heads import choose_heads
from subjectgen.aggregators.layer_pooling import Form, LayerPooling
from subjectgen.aggregators.layer_selection import ModalityLayers, ZeroedLayers, select_layers
from subjectgen.aggregators.refiner import Refiner
from subjectgen.aggregators.tokens import TokenPlaces
from subjectgen.core import ComponentError, Features, Modality

_MODALITIES = {Modality.TEXT: "text", Modality.IMAGE: "image"}


class LayerwiseConfig(AggregatorConfig):
    """Options of ``lap`` and ``dla``."""

    layers: ModalityLayers = ModalityLayers()
    """Hidden states per modality, e.g. ``{text: 0-28, image: [0-9, 20-28]}``; a plain range is for both."""
    residual: bool = False
    """Add F_M to the pooled tokens (Table 6)."""
    zero_out: ZeroedLayers = ZeroedLayers()
    """Hidden states zeroed per modality at inference (Table A); training is not touched."""
    zero_out_mode: Literal["features", "weights"] = "features"
    """``features``: F_i = 0 before everything, residual too. ``weights``: the pooling weight of layer i is 0."""
    blocks: int = Field(default=1, ge=1, le=2)
    """Attention blocks over the layer axis."""
    feed_forward: bool = False
    """A SwiGLU feed-forward in each block; needs ``form: plain``."""
    qk_norm: bool = False
    """RMSNorm on the queries and keys of each head."""
    refiner: int = Field(default=0, ge=0, le=2)
    """Bidirectional blocks over all tokens, after pooling."""
    inner_dim: int | None = Field(default=None, ge=1)
    """Width inside, between a linear map at the entrance and the connector; none means the encoder's."""
    heads: int | None = Field(default=None, ge=1)
    """Attention heads; none means heads of 128 channels, or the widest below that divide the width."""
    layer_embedding: bool = False
    """Add a learned vector per layer; otherwise only the pooling weights know the layers' order."""
    form: Form = "factored"
    """How the last block is pooled: same result; ``factored`` takes half the time and memory of ``plain``."""
    gradient_checkpointing: bool = False
    """Recompute the pooling in the backward pass instead of keeping its activations."""

    @model_validator(mode="after")
    def _form_fits(self) -> LayerwiseConfig:
        if self.feed_forward and self.form == "factored":
            raise ValueError("form: 'factored' is exact only without feed_forward; set form: plain")
        return self


class LayerwiseAggregator(TokenAggregator):
    """Runs a :class:`LayerPooling` on the text tokens and one on the image tokens, each on its own layers."""

    def __init__(
        self, config: LayerwiseConfig, *, width: int, depth: int, context_width: int, pooled_width: int
    ) -> None:
        inner_width = config.inner_dim or width
        super().__init__(
            config,
            width=width,
            depth=depth,
            context_width=context_width,
            pooled_width=pooled_width,
            inner_width=inner_width,
        )
        self.config = config
        self.heads = choose_heads(inner_width, config.heads)
        self.refiner = Refiner(inner_width, blocks=config.refiner, heads=self.heads)
        self.modality_layers = {
            modality: self._select(getattr(config.layers, name), f"layers.{name}")
            for modality, name in _MODALITIES.items()
        }
        last = {depth - 1} if config.residual else set()
        self.layers = tuple(sorted(last.union(*self.modality_layers.values())))
        self.set_zero_out(text=config.zero_out.text, image=config.zero_out.image, mode=config.zero_out_mode)

    @property
    def defining(self) -> dict[str, object]:
        """Options that trained weights depend on beside their shapes: hidden states per modality."""
        return {f"layers.{_MODALITIES[modality]}": list(layers) for modality, layers in self.modality_layers.items()}

    def set_zero_out(
        self, *, text: Any = (), image: Any = (), mode: Literal["features", "weights"] | None = None
    ) -> None:
        """Choose the hidden states that inference zeroes, on a trained model (Table A); nothing by default.

        Args:
            text: layer range zeroed at text tokens.
            image: layer range zeroed at image tokens.
            mode: ``features`` or ``weights``, as ``zero_out_mode``; none keeps the present one.
        """
        self.zeroed = {
            Modality.TEXT: frozenset(select_layers(text, self.depth, key="zero_out.text")),
            Modality.IMAGE: frozenset(select_layers(image, self.depth, key="zero_out.image")),
        }
        self.zero_out_mode = mode or getattr(self, "zero_out_mode", "features")

    def aggregate(self, features: Features, modality: Modality, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Pool the modality's layers; with ``residual``, add F_M."""
        if self.config.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._aggregate, features, modality, places, use_reentrant=False)
        return self._aggregate(features, modality, places)

    @torch.no_grad()
    def layer_attention(self, features: Features) -> dict[str, Tensor]:
        """What each modality reads from which layer (Figure 3b); a modality without tokens is left out.

        Returns, for ``text`` and ``image``, of the n layers it uses:
            ``text.layers`` (n): their indices. ``text.attention`` (n, n): attention of the last block from layer to
            layer, mean over tokens and heads. ``text.weights`` (n): signed pooling weights. ``text.effective`` (n):
            weights @ attention, the weight with which each layer enters the pooled value.
        """
        self._check(features)
        maps: dict[str, Tensor] = {}
        for modality, places in zip(_MODALITIES, token_places(features), strict=True):
            if len(places.index):
                found = self._attention_maps(features, modality, places)
                maps |= {f"{_MODALITIES[modality]}.{name}": value for name, value in found.items()}
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
            form=config.form,
        )

    def _select(self, layers: Any, key: str) -> tuple[int, ...]:
        selected = select_layers(layers, self.depth, key=key)
        if not selected:
            raise ComponentError(f"{key}: no layer is selected; valid are 0-{self.depth - 1}")
        return selected

    def _zeroed(self, modality: Modality, mode: str) -> frozenset[int]:
        active = not self.training and self.zero_out_mode == mode
        return self.zeroed[modality] if active else frozenset()

    def _aggregate(self, features: Features, modality: Modality, places: TokenPlaces) -> Float[Tensor, "t c"]:
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
