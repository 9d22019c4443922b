"""Operations of a FLUX transformer, written out: 2 per multiplication, norms and activations left out.

This way of counting is torch's, and a test compares the two. Formulas are needed beside it because reference keys and
values from a cache, and a backward pass through attention, are not what a plain forward pass shows.

h width, N tokens in attention, r rank of an adapter. Blocks: FLUX.1 (diffusers ``FluxTransformer2DModel``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAP = 2
"""Operations per weight of a linear map and token."""
ATTENTION = 4
"""Operations per query, key and channel: QK^T and PV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of one pass of the backbone."""

    context: int
    target: int
    references: int = 0
    cached: int = 0
    """Reference tokens of which only keys and values, from a cache, take part."""

    @property
    def image(self) -> int:
        """Tokens of the image stream."""
        return self.target + self.references

    @property
    def all(self) -> int:
        """Tokens that are computed."""
        return self.context + self.image

    def with_cache(self) -> Tokens:
        """The same with references from a cache."""
        return Tokens(context=self.context, target=self.target, cached=self.references)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """Operations of one forward pass by kind."""

    linear: int
    """The frozen blocks' linear maps."""
    attention: int
    adapter: int
    """LoRA that is not merged."""
    other: int
    """Embeddings, modulation, output."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.linear + self.attention + self.adapter + self.other

    def __add__(self, other: Operations) -> Operations:
        """Two forward passes, one after the other."""
        return Operations(
            linear=self.linear + other.linear,
            attention=self.attention + other.attention,
            adapter=self.adapter + other.adapter,
            other=self.other + other.other,
        )

    @property
    def useful_training(self) -> int:
        """Forward and backward without repeating anything: gradients of frozen maps' inputs alone, attention twice,
        gradients of the adapter's inputs and weights.
        """
        return self.total + self.linear + 2 * self.attention + 2 * self.adapter

    @property
    def hardware_training(self) -> int:
        """As above with flash attention's backward, which repeats QK^T (arXiv 2307.08691, section 3.1)."""
        return self.total + self.linear + self.attention * 5 // 2 + 2 * self.adapter

    @property
    def checkpointed_training(self) -> int:
        """As hardware_training, with every block's forward pass repeated (full gradient checkpointing)."""
        return self.hardware_training + self.total - self.other

    @property
    def selective_training(self) -> int:
        """As hardware_training, with every block repeated but for its attention (arXiv 2205.05198)."""
        return self.checkpointed_training - self.attention


def flux_work(sizes: Mapping[str, Any], tokens: Tokens, *, adapter: Mapping[str, int] | None = None) -> Operations:
    """One forward pass of one image.

    Args:
        sizes: Config of the transformer.
        tokens: What is in the sequence.
        adapter: Weights of LoRA that a token of each kind meets: ``double_context``, ``double_image``, ``single``.
    """
    h = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    double, single = sizes["num_layers"], sizes["num_single_layers"]
    blocks, given = double + single, adapter or {}
    # A double block's stream: query, key, value, out 4 h^2, feed-forward 8 h^2. A single block: 3 + 4 and 5 h^2.
    linear = MAP * 12 * h * h * blocks * tokens.all
    keys = tokens.all + tokens.cached
    lora = (given.get("double_context", 0) + given.get("single", 0)) * tokens.context
    lora += (given.get("double_image", 0) + given.get("single", 0)) * tokens.image
    channels = sizes["in_channels"]
    embeddings = channels * tokens.image + sizes["joint_attention_dim"] * tokens.context + channels * tokens.image
    return Operations(
        linear=linear,
        attention=ATTENTION * blocks * tokens.all * keys * h,
        adapter=MAP * lora,
        other=MAP * (h * embeddings + flux_modulation(sizes) + _time_embedding(sizes, h)),
    )


def flux_modulation(sizes: Mapping[str, Any]) -> int:
    """Weights that depend on timestep, guidance and pooled vector alone: 12 or 3 h^2 a block, 2 h^2 at the end."""
    h = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    return (12 * sizes["num_layers"] + 3 * sizes["num_single_layers"] + 2) * h * h


def _time_embedding(sizes: Mapping[str, Any], h: int) -> int:
    """Weights of the sinusoidal embeddings' perceptrons (256 channels) and of the pooled vector's."""
    numbers = 2 if sizes["guidance_embeds"] else 1
    return numbers * (256 * h + h * h) + sizes["pooled_projection_dim"] * h + h * h
