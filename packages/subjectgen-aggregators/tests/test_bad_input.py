"""Each mistake gives one message that says what would be right."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from subjectgen.aggregators.blend_vit import BlendVit
from subjectgen.aggregators.dla import DualLayerAggregator
from subjectgen.aggregators.heads import choose_heads
from subjectgen.core import ComponentError
from subjectgen.testing.strategies import make_features

RUNTIME = {"width": 12, "depth": 4, "context_width": 5, "pooled_width": 3}
ROW = [[-1, 0]]


@pytest.mark.parametrize(("width", "heads"), [(3584, 28), (1536, 12), (2048, 16), (200, 2), (48, 1), (131, 131)])
def test_heads_are_as_wide_as_possible_up_to_128(width, heads):
    assert choose_heads(width, None) == heads


def test_heads_that_do_not_divide_list_those_that_do():
    with pytest.raises(ComponentError, match=r"heads: 5 does not divide .* 12; valid are \[1, 2, 3, 4, 6, 12\]"):
        DualLayerAggregator(DualLayerAggregator.Config(heads=5), **RUNTIME)


@pytest.mark.parametrize(
    "options",
    [{"blocks": 3}, {"refiner": -1}, {"inner_dim": 0}, {"pooled": "max"}, {"layer": "0-3"}],
    ids=str,
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        DualLayerAggregator.Config(**options)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_zero_to_one_is_refused(ratio):
    with pytest.raises(ValidationError, match="ratio"):
        BlendVit.Config(ratio=ratio)


@pytest.mark.parametrize(("width", "depth"), [(8, 4), (12, 3), (12, 5)])
def test_features_of_another_encoder_are_refused(width, depth):
    dla = DualLayerAggregator(DualLayerAggregator.Config(), **RUNTIME)
    message = f"built for 4 hidden states of width 12, but the features have {depth} of width {width}"
    with pytest.raises(ComponentError, match=message):
        dla(make_features(ROW, width=width, depth=depth))


def test_a_layer_that_was_not_kept_is_named():
    dla = DualLayerAggregator(DualLayerAggregator.Config(), **RUNTIME)
    features = make_features(ROW, width=12, depth=4)
    object.__setattr__(features, "hidden_states", (*features.hidden_states[:2], None, features.hidden_states[3]))
    with pytest.raises(ComponentError, match=r"hidden state 2 is missing, the features hold only \[0, 1, 3\]"):
        dla(features)
