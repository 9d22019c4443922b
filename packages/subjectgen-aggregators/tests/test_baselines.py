"""The baselines of Table 6 against each other and against their formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from subjectgen.aggregators.blend_vit import BlendVit
from subjectgen.aggregators.last_layer import LastLayer
from subjectgen.aggregators.mix_vit import MixVit
from subjectgen.core import Modality
from subjectgen.testing import features_strategy
from subjectgen.testing.strategies import make_features

RUNTIME = {"width": 8, "depth": 4, "context_width": 5, "pooled_width": 3}
FEATURES = features_strategy(8, 4)


def build(component, **options):
    """With the same seed all have the same connector and pooled map."""
    torch.manual_seed(0)
    return component(component.Config(**options), **RUNTIME).eval()


def expected_tokens(aggregator, features, image_tokens):
    """Text from F_M, images as given, through the aggregator's connector; zero at padding."""
    image = (features.modality == Modality.IMAGE)[..., None]
    states = torch.where(image, image_tokens, features.hidden_states[-1])
    return (
        aggregator.connector(states.flatten(0, 1)).view(*states.shape[:2], RUNTIME["context_width"])
        * features.mask[..., None]
    )


def vision(features):
    return features.hidden_states[0] if features.image_features is None else features.image_features


@settings(deadline=None, max_examples=20)
@given(features=FEATURES)
def test_last_layer_is_the_last_hidden_state(features):
    aggregator = build(LastLayer)
    expected = expected_tokens(aggregator, features, features.hidden_states[-1])
    torch.testing.assert_close(aggregator(features).tokens, expected)


@settings(deadline=None, max_examples=20)
@given(features=FEATURES)
def test_mix_vit_takes_vision_features_at_image_tokens(features):
    aggregator = build(MixVit)
    torch.testing.assert_close(aggregator(features).tokens, expected_tokens(aggregator, features, vision(features)))


@pytest.mark.parametrize("blend", ["fixed", "learned", "random"])
def test_blend_vit_blends_at_image_tokens(blend):
    @settings(deadline=None, max_examples=20)
    @given(features=FEATURES, ratio=st.floats(0, 1))
    def law(features, ratio):
        aggregator = build(BlendVit, blend=blend, ratio=ratio)
        blended = (1 - ratio) * features.hidden_states[-1] + ratio * vision(features)
        torch.testing.assert_close(
            aggregator(features).tokens, expected_tokens(aggregator, features, blended), rtol=1e-4, atol=1e-5
        )

    law()


@pytest.mark.parametrize(("ratio", "component"), [(0.0, LastLayer), (1.0, MixVit)])
def test_blend_vit_ends_are_last_layer_and_mix_vit(ratio, component):
    @settings(deadline=None, max_examples=20)
    @given(features=FEATURES)
    def law(features):
        blended, end = build(BlendVit, ratio=ratio)(features), build(component)(features)
        torch.testing.assert_close(blended.tokens, end.tokens)
        torch.testing.assert_close(blended.pooled, end.pooled)

    law()


def test_random_blend_draws_one_ratio_per_sample_in_training():
    """With F_M = 0 and vision features 1 a token before the connector is its own ratio."""
    aggregator = build(BlendVit, blend="random").train()
    features = make_features([[0, 0, 1]] * 50, width=8, depth=4)
    ones, zeros = (fill(features.hidden_states[0]) for fill in (torch.ones_like, torch.zeros_like))
    features = replace(features, hidden_states=(zeros,) * 4, image_features=ones)
    entered = []
    aggregator.connector.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    aggregator(features), aggregator(features)

    ratios, again = (tokens.view(50, 3 * 8) for tokens in entered)
    assert torch.equal(ratios, ratios[:, :1].expand_as(ratios))
    assert ((ratios >= 0) & (ratios <= 1)).all()
    assert len(ratios[:, 0].unique()) > 40
    assert not torch.equal(ratios, again)


def test_random_blend_draws_from_its_own_generator_and_nothing_at_inference():
    aggregator, features = build(BlendVit, blend="random"), make_features([[0, 0]], width=8, depth=4)
    everywhere, own = torch.get_rng_state(), aggregator.generator.get_state()
    aggregator(features)
    assert torch.equal(aggregator.generator.get_state(), own)
    first = aggregator.train()(features).tokens
    aggregator.generator.set_state(own)
    assert torch.equal(aggregator(features).tokens, first)
    assert torch.equal(torch.get_rng_state(), everywhere)


@pytest.mark.parametrize(("blend", "trained"), [("learned", True), ("fixed", False), ("random", False)])
def test_only_a_learned_ratio_is_a_parameter(blend, trained):
    aggregator = build(BlendVit, blend=blend)
    aggregator(make_features([[0, 1]], width=8, depth=4)).tokens.square().sum().backward()
    parameters = dict(aggregator.named_parameters())
    assert ("ratio" in parameters) == trained
    assert ("ratio" in aggregator.state_dict()) == trained
    assert not trained or parameters["ratio"].grad != 0


@pytest.mark.parametrize("component", [BlendVit, MixVit])
def test_embedding_output_stands_in_for_missing_vision_features(component):
    """At image positions F_0 is the projected vision feature."""
    aggregator = build(component)
    features = make_features([[-1, 0, 0, -1]], width=8, depth=4)
    without = replace(features, image_features=None)
    torch.testing.assert_close(aggregator(without).tokens, aggregator(features).tokens)
