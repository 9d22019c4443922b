"""The pooled vector's options."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings

from subjectgen.aggregators.last_layer import LastLayer
from subjectgen.core import ComponentError
from subjectgen.core.aggregating import PooledOption
from subjectgen.testing import features_strategy
from subjectgen.testing.strategies import TEXT, make_features

RUNTIME = {"width": 8, "depth": 2, "context_width": 5, "pooled_width": 3}
FEATURES = features_strategy(8, 2, pooled_width=3)


def build(pooled, **runtime):
    torch.manual_seed(0)
    return LastLayer(LastLayer.Config(pooled=pooled), **(RUNTIME | runtime))


@settings(deadline=None, max_examples=20)
@given(features=FEATURES)
def test_mean_is_the_mapped_mean_of_valid_tokens(features):
    aggregator = build("mean")
    conditioning = aggregator(features)
    for tokens, mask, pooled in zip(conditioning.tokens, conditioning.mask, conditioning.pooled, strict=True):
        mean = tokens[mask].mean(dim=0) if mask.any() else torch.zeros(5)
        torch.testing.assert_close(pooled, aggregator.pooled.project(mean))


@settings(deadline=None, max_examples=20)
@given(features=FEATURES)
def test_mean_aggregated_is_the_mapped_mean_before_the_connector(features):
    """Fault D5: what Step1X-Edit does. Of ``last_layer`` the aggregated tokens are F_M."""
    aggregator = build("mean_aggregated")
    conditioning = aggregator(features)
    for states, mask, pooled in zip(features.hidden_states[-1], features.mask, conditioning.pooled, strict=True):
        mean = states[mask].mean(dim=0) if mask.any() else torch.zeros(8)
        torch.testing.assert_close(pooled, aggregator.pooled.project(mean))


@settings(deadline=None, max_examples=20)
@given(features=FEATURES)
def test_clip_passes_the_encoders_vector(features):
    assert torch.equal(build("clip")(features).pooled, features.pooled)


def test_constant_is_learned_and_the_same_for_all_rows():
    aggregator = build("constant")
    features = make_features([[TEXT], [TEXT, 0]], width=8, depth=2)
    pooled = aggregator(features).pooled
    assert torch.equal(pooled[0], pooled[1])
    pooled.sum().backward()
    assert torch.equal(aggregator.pooled.constant.grad, torch.full((3,), 2.0))


def test_none_gives_none():
    assert build("none")(make_features([[TEXT]], width=8, depth=2)).pooled is None


@pytest.mark.parametrize("option", get_args(PooledOption))
def test_a_backbone_without_pooled_vector_gets_none(option):
    """Also of an encoder that has one."""
    aggregator = build(option, pooled_width=None)
    assert aggregator(make_features([[TEXT]], width=8, depth=2, pooled_width=3)).pooled is None
    assert not list(aggregator.pooled.parameters())


def test_clip_without_a_fitting_vector_is_named():
    features = make_features([[TEXT]], width=8, depth=2, pooled_width=4)
    with pytest.raises(ComponentError, match=r"width 4 .* takes 3; use 'mean' or 'constant'"):
        build("clip")(features)
    with pytest.raises(ComponentError, match="gives no pooled vector; use 'mean' or 'constant'"):
        build("clip")(replace(features, pooled=None))
