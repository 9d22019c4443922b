"""What this distribution offers. Imported at discovery: nothing heavy here."""

from __future__ import annotations

from collections.abc import Iterable

from subjectgen.core import Component, hookimpl


@hookimpl
def subjectgen_aggregators() -> Iterable[Component]:
    """The five ways of Table 6 to turn hidden states into conditioning tokens."""
    return [
        Component(
            name="last_layer",
            target="subjectgen.aggregators.last_layer:LastLayer",
            summary="Last hidden state of every token, as Qwen-Image does",
        ),
        Component(
            name="blend_vit",
            target="subjectgen.aggregators.blend_vit:BlendVit",
            summary="Image tokens: last hidden state blended with vision features, as DreamEngine does",
        ),
        Component(
            name="mix_vit",
            target="subjectgen.aggregators.mix_vit:MixVit",
            summary="Image tokens: vision features; text tokens: last hidden state",
        ),
        Component(
            name="lap",
            target="subjectgen.aggregators.lap:LayerwiseAttentionPooling",
            summary="One layerwise attention pooling for all tokens",
        ),
        Component(
            name="dla",
            target="subjectgen.aggregators.dla:DualLayerAggregator",
            summary="Dual layer aggregator: one layerwise attention pooling for text, one for images",
        ),
    ]
