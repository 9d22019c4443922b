"""Layerwise attention pooling: n hidden states of a token -> one vector."""

from __future__ import annotations

from collections.abc import Sequence, Set as AbstractSet

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.aggregators.layer_attention import LayerAttentionBlock
from subjectgen.core import Features
from subjectgen.core.aggregating import TokenPlaces, hidden_state

_NONE: frozenset[int] = frozenset()


class LayerPooling(nn.Module):
    """One or two attention blocks over the layer axis, then a linear map n -> 1 over the layers.

    The map starts as a plain average, 1/n, and has no softmax: trained public ones have weights of both signs.

    Args:
        width: channels of the hidden states.
        layers: hidden states it may read; each has its own pooling weight.
        inner_width: channels inside; if not ``width``, a linear map without bias comes first.
        heads: attention heads; divides ``inner_width``.
        blocks: attention blocks. The last one is pooled before its value and output maps.

    Source: paper section 3.2, Figure 2(b); UniFusion (arXiv 2510.12789); Krea 2's ``TextFusion``.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: Sequence[int],
        inner_width: int,
        heads: int,
        blocks: int = 1,
        feed_forward: bool = False,
        qk_norm: bool = False,
        layer_embedding: bool = False,
    ) -> None:
        super().__init__()
        self.position = {layer: position for position, layer in enumerate(layers)}
        self.project = nn.Identity() if inner_width == width else nn.Linear(width, inner_width, bias=False)
        self.embedding = nn.Parameter(torch.zeros(len(layers), inner_width)) if layer_embedding else None
        self.blocks = nn.ModuleList(
            LayerAttentionBlock(inner_width, heads=heads, qk_norm=qk_norm, feed_forward=feed_forward)
            for _ in range(blocks)
        )
        self.weights = nn.Parameter(torch.full((len(layers),), 1 / len(layers)))

    def forward(
        self,
        features: Features,
        places: TokenPlaces,
        layers: Sequence[int],
        *,
        zeroed: AbstractSet[int] = _NONE,
        unweighted: AbstractSet[int] = _NONE,
    ) -> Float[Tensor, "t c"]:
        """Pool the given ``layers`` of the tokens at ``places``.

        Args:
            features: hidden states (b, l, c).
            places: the tokens to pool.
            layers: indices of hidden states, among those given at construction.
            zeroed: layers taken as zero; the others still attend to them.
            unweighted: layers whose pooling weight is taken as zero.
        """
        weights = self.pooling_weights(layers, unweighted)
        return self._last.pool(self._enter(features, places, layers, zeroed), weights)

    def pooling_weights(self, layers: Sequence[int], unweighted: AbstractSet[int] = _NONE) -> Float[Tensor, " n"]:
        """Signed weights of the linear map over these ``layers``."""
        weights = self._of(layers, self.weights)
        keep = [float(layer not in unweighted) for layer in layers]
        return weights if all(keep) else weights * weights.new_tensor(keep)

    def attention(
        self, features: Features, places: TokenPlaces, layers: Sequence[int], *, zeroed: AbstractSet[int] = _NONE
    ) -> Float[Tensor, "n n"]:
        """Attention of the last block between layers, mean over tokens and heads. Needs at least one token."""
        return self._last.attention(self._enter(features, places, layers, zeroed)).mean(dim=(0, 1))

    def _of(self, layers: Sequence[int], parameter: Float[Tensor, "m *channels"]) -> Float[Tensor, "n *channels"]:
        """The rows of a parameter that has one per layer."""
        positions = [self.position[layer] for layer in layers]
        return parameter if len(positions) == len(parameter) else parameter[positions]

    @property
    def _last(self) -> LayerAttentionBlock:
        block = self.blocks[-1]
        assert isinstance(block, LayerAttentionBlock)  # ModuleList forgets its type
        return block

    def _enter(
        self, features: Features, places: TokenPlaces, layers: Sequence[int], zeroed: AbstractSet[int]
    ) -> Float[Tensor, "t n c"]:
        """What the last block takes: the chosen layers, projected, embedded, and through the block before."""
        x = self._collect(features, places, layers, zeroed)
        if self.embedding is not None:
            x = x + self._of(layers, self.embedding)
        for block in self.blocks[:-1]:
            x = block(x)
        return x

    def _collect(
        self, features: Features, places: TokenPlaces, layers: Sequence[int], zeroed: AbstractSet[int]
    ) -> Float[Tensor, "t n c"]:
        """Gather the tokens layer by layer, in the parameters' dtype: the full features are never copied."""
        if isinstance(self.project, nn.Linear):
            rows = (self.enter(features, places, layer, zeroed) for layer in layers)
            return torch.stack(tuple(rows), dim=1)
        first = hidden_state(features, layers[0])
        x = first.new_zeros(len(places.index), len(layers), first.shape[2], dtype=self.weights.dtype)
        for position, layer in enumerate(layers):
            if layer not in zeroed:
                x[:, position] = places.gather(hidden_state(features, layer))
        return x

    def enter(
        self, features: Features, places: TokenPlaces, layer: int, zeroed: AbstractSet[int] = _NONE
    ) -> Float[Tensor, "t c"]:
        """One hidden state at ``places``, in the inner width and the parameters' dtype."""
        rows = places.gather(hidden_state(features, layer)).to(self.weights.dtype)
        return self.project(torch.zeros_like(rows) if layer in zeroed else rows)
