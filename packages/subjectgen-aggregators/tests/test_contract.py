"""Every aggregator, with every option, keeps the laws of the kind; ours also keep tokens in place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from subjectgen.aggregators.blend_vit import BlendVit
from subjectgen.aggregators.dla import DualLayerAggregator
from subjectgen.aggregators.lap import LayerwiseAttentionPooling
from subjectgen.aggregators.last_layer import LastLayer
from subjectgen.aggregators.mix_vit import MixVit
from subjectgen.testing import AggregatorContract

PLAIN_OPTIONS = [{"pooled": option} for option in ("mean", "mean_aggregated", "constant", "clip", "none")]
BLEND_OPTIONS = [{"blend": "fixed", "ratio": 0.3}, {"blend": "random"}, {"blend": "learned"}]
LAYERWISE_OPTIONS = [
    {},
    {"feed_forward": True, "blocks": 2, "qk_norm": True, "heads": 4},
    {"blocks": 2, "qk_norm": True, "layer_embedding": True, "residual": True, "heads": 2},
    {"inner_dim": 8, "refiner": 2, "heads": 2, "residual": True, "pooled": "mean_aggregated"},
    {"layers": {"text": "late", "image": "0-2"}, "residual": True, "gradient_checkpointing": True},
    {"zero_out": {"text": "0-1", "image": "all"}, "residual": True, "pooled": "clip"},
    {"zero_out": {"text": "0-1", "image": "all"}, "zero_out_mode": "weights", "pooled": "constant"},
]


def with_options(options: list[dict]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("options", options, ids=lambda chosen: "-".join(chosen) or "default")


class InPlaceContract(AggregatorContract):
    """One context token per token of the encoder, which an aggregator in general need not give."""

    @pytest.fixture
    def aggregator(self, options):
        return self.component(self.component.Config(**options), **self.runtime)

    def test_tokens_stay_in_place_and_padding_is_zero(self, aggregator):
        @settings(deadline=None, max_examples=25)
        @given(features=self.features())
        def law(features):
            conditioning = aggregator(features)
            assert torch.equal(conditioning.mask, features.mask)
            assert not conditioning.tokens[~features.mask].any()

        law()


@with_options(PLAIN_OPTIONS)
class TestLastLayer(InPlaceContract):
    component = LastLayer


@with_options([{}])
class TestMixVit(InPlaceContract):
    component = MixVit


@with_options(BLEND_OPTIONS)
class TestBlendVit(InPlaceContract):
    component = BlendVit


@with_options(LAYERWISE_OPTIONS)
class TestLap(InPlaceContract):
    component = LayerwiseAttentionPooling


@with_options(LAYERWISE_OPTIONS)
class TestDla(InPlaceContract):
    component = DualLayerAggregator


@with_options(LAYERWISE_OPTIONS[:3])
class TestDlaWithOtherSizes(InPlaceContract):
    """Any width and depth, down to one hidden state; a pooled vector of one number."""

    component = DualLayerAggregator
    runtime = {"width": 12, "depth": 1, "context_width": 5, "pooled_width": 1}  # noqa: RUF012


@with_options([{}])
class TestDlaForABackboneWithoutPooledVector(InPlaceContract):
    """By default, which is ``pooled: mean``: it is built, gives none and has no parameters for one."""

    component = DualLayerAggregator
    runtime = {"width": 12, "depth": 3, "context_width": 5, "pooled_width": None}  # noqa: RUF012

    def test_nothing_is_kept_for_it(self, aggregator):
        assert not [name for name in aggregator.state_dict() if name.startswith("pooled")]
