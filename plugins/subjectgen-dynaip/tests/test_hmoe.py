"""The mixture is Eq. 6-8 written out, weights are a reference's own, and experts are dropped as often as said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError
from torch import nn

from subjectgen.core import Modality
from subjectgen.testing.strategies import TEXT, features_strategy, make_features
from subjectgen_dynaip.hmoe import HierarchicalExperts, drop_experts

SIZES = {"width": 6, "depth": 5, "context_width": 7, "pooled_width": None}
KINDS = pytest.mark.parametrize("router", ["joint", "per_level"])
LAW = settings(deadline=None, max_examples=30)


def build(dtype=torch.float32, sizes=None, **options):
    torch.manual_seed(0)
    module = HierarchicalExperts(HierarchicalExperts.Config(**options), **(sizes or SIZES)).to(dtype)
    with torch.no_grad():  # so that no scale is one and no shift is zero
        for expert in module.experts:
            expert.norm.weight.normal_()
            expert.norm.bias.normal_()
    return module.eval()


def features_of(rows, dtype=torch.float32, **keywords):
    return make_features(rows, width=SIZES["width"], depth=SIZES["depth"], dtype=dtype, **keywords)


def with_class_tokens(features, chosen=lambda reference: True):
    """Mark the first token of each chosen reference."""
    marked = torch.zeros_like(features.mask)
    for row in range(len(marked)):
        for reference in set(features.reference[row].tolist()) - {-1}:
            if chosen(reference):
                marked[row, (features.reference[row] == reference).nonzero()[0]] = True
    return replace(features, class_token=marked)


# --------------------------------------------------------------------------------------- the formula, token by token


def expert_by_hand(expert, token):
    projected = expert.project.weight @ token + expert.project.bias
    active = projected * 0.5 * (1 + torch.erf(projected / math.sqrt(2)))
    centred = active - active.mean()
    return centred / torch.sqrt((centred**2).mean() + expert.norm.eps) * expert.norm.weight + expert.norm.bias


def perceptron_by_hand(perceptron, inputs):
    first, _, second = perceptron
    return second.weight @ torch.tanh(first.weight @ inputs + first.bias) + second.bias


def route_by_hand(module, class_tokens):
    perceptrons = module.router.perceptrons
    if module.config.router == "joint":
        scores = perceptron_by_hand(perceptrons[0], torch.cat(class_tokens))
    else:
        scores = torch.cat([perceptron_by_hand(p, token) for p, token in zip(perceptrons, class_tokens, strict=True)])
    return torch.exp(scores) / torch.exp(scores).sum()


def mixture_by_hand(module, features):
    """Eq. 6-8, one row, one reference, one token and one level at a time."""
    rows, length = features.modality.shape
    mixed = torch.zeros(rows, length, SIZES["context_width"], dtype=torch.float64)
    levels = [features.hidden_states[layer] for layer in module.layers]
    for row in range(rows):
        places = [place for place in range(length) if features.modality[row, place] != Modality.PADDING]
        for reference in {int(features.reference[row, place]) for place in places}:
            own = [place for place in places if features.reference[row, place] == reference]
            marked = [] if features.class_token is None else [p for p in own if features.class_token[row, p]]
            spoken = [sum(level[row, place] for place in marked or own) / len(marked or own) for level in levels]
            weights = route_by_hand(module, spoken)
            for place in own:
                for weight, expert, level in zip(weights, module.experts, levels, strict=True):
                    mixed[row, place] += weight * expert_by_hand(expert, level[row, place])
    return mixed


@KINDS
@pytest.mark.parametrize("marked", ["none", "all", "even references"])
def test_it_is_the_papers_formula(router, marked):
    module = build(torch.float64, router=router, router_hidden=4)

    @LAW
    @given(features=features_strategy(SIZES["width"], SIZES["depth"], dtype=torch.float64))
    @torch.no_grad()
    def law(features):
        if marked != "none":
            features = with_class_tokens(features, lambda reference: marked == "all" or reference % 2 == 0)
        torch.testing.assert_close(module(features).tokens, mixture_by_hand(module, features), rtol=1e-9, atol=1e-9)

    law()


def test_every_parameter_is_trained():
    module = build(router="joint").train()
    module(features_of([[0, 0, 1, TEXT]])).tokens.square().sum().backward()
    assert all(parameter.grad.any() for parameter in module.parameters())


def test_under_autocast_it_stays_close_and_keeps_the_features_dtype():
    module, features = build(), with_class_tokens(features_of([[0, 0, 1, 1]]))
    with torch.autocast("cpu", torch.bfloat16):
        tokens = module(features).tokens
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, module(features).tokens, rtol=0, atol=0.1)


# ------------------------------------------------------------------------------------------------------- the router


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_a_reference_sum_to_one_and_are_zero_without_it(router, dtype):
    module = build(dtype, router=router)

    @LAW
    @given(features=features_strategy(SIZES["width"], SIZES["depth"], dtype=dtype))
    @torch.no_grad()
    def law(features):
        weights = module.router_weights(features)
        count = int(features.reference.max()) + 1 if features.reference.numel() else 0
        assert weights.shape == (len(features.modality), count, 3)
        assert weights.dtype == torch.float32
        assert (weights >= 0).all()
        present = (
            torch.stack([(features.reference == k).any(dim=1) for k in range(count)], 1) if count else weights[..., 0]
        )
        torch.testing.assert_close(weights.sum(dim=2), present.float(), rtol=0, atol=1e-6)

    law()


def test_router_weights_are_by_row_and_reference():
    module = build()
    weights = module.router_weights(features_of([[TEXT, 0, 0, 2, 2], [TEXT], [1]]))
    assert weights.shape == (3, 3, 3)
    present = weights.any(dim=2).tolist()
    assert present == [[True, False, True], [False, False, False], [False, True, False]]
    assert not torch.equal(weights[0, 0], weights[0, 2])


def test_only_the_class_token_is_routed_by():
    module = build()
    features = with_class_tokens(features_of([[0, 0, 0, 1, 1, TEXT]]))
    patches = torch.tensor([[False, True, True, False, True, True]])

    def changed(where):
        states = tuple(torch.where(where[..., None], 3 - state, state) for state in features.hidden_states)
        return module.router_weights(replace(features, hidden_states=states))

    weights = module.router_weights(features)
    assert torch.equal(changed(patches), weights)
    first = changed(torch.tensor([[True, False, False, False, False, False]]))
    assert torch.equal(first[:, 1], weights[:, 1])
    assert (first[:, 0] != weights[:, 0]).all()


@KINDS
def test_what_is_no_number_at_padding_reaches_nothing(router):
    module, features = build(router=router), features_of([[0, 0, TEXT], [0]], padding=1)
    spoilt = tuple(
        torch.where(features.mask[..., None], state, math.nan).requires_grad_() for state in features.hidden_states
    )
    tokens = module(replace(features, hidden_states=spoilt)).tokens
    assert torch.equal(tokens, module(features).tokens)
    tokens.sum().backward()
    assert all(spoilt[layer].grad.isfinite().all() for layer in module.layers)
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_a_reference_is_weighed_alike_alone_and_beside_others():
    module = build()
    features = with_class_tokens(features_of([[0, 0, 1, 1]]))
    alone = replace(
        features,
        hidden_states=tuple(state[:, 2:] for state in features.hidden_states),
        modality=features.modality[:, 2:],
        reference=torch.zeros(1, 2, dtype=torch.long),
        class_token=features.class_token[:, 2:],
        image_features=None,
    )
    torch.testing.assert_close(module.router_weights(alone)[:, 0], module.router_weights(features)[:, 1])
    torch.testing.assert_close(module(alone).tokens, module(features).tokens[:, 2:])


# --------------------------------------------------------------------------------------------- weights set by hand


@pytest.mark.parametrize("level", range(3))
def test_weight_one_is_that_expert_alone_and_the_others_are_not_computed(level):
    module, features = build(weights=[float(each == level) for each in range(3)]), features_of([[TEXT, 0, 0], [0]])
    with torch.no_grad():
        for other in {0, 1, 2} - {level}:
            module.experts[other].project.weight.fill_(math.nan)
    alone = module.experts[level](features.hidden_states[module.layers[level]][features.mask])
    torch.testing.assert_close(module(features).tokens[features.mask], alone)


def test_weights_by_hand_mix_the_experts_for_every_reference():
    module, features = build(weights=(0.2, 0.3, 0.5)), features_of([[0, 0, 1, 1]])
    parts = [expert(features.hidden_states[i][0]) for i, expert in zip(module.layers, module.experts, strict=True)]
    mixed = module(features).tokens
    torch.testing.assert_close(mixed[0], 0.2 * parts[0] + 0.3 * parts[1] + 0.5 * parts[2])


def test_what_the_router_says_can_be_read_and_put_back_by_hand():
    module, features = build(weights=(1, 0, 0)), features_of([[0, 0, 0]])
    said = module.router_weights(features)
    assert torch.equal(said, build().router_weights(features))
    torch.testing.assert_close(build(weights=said[0, 0].tolist())(features).tokens, build()(features).tokens)


def test_weights_by_hand_are_no_part_of_the_checkpoint():
    assert build(weights=(1, 0, 0)).state_dict().keys() == build().state_dict().keys()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((0.5, 0.2, 0.1), "got 0.5, 0.2, 0.1, which sum to 0.8; .* did you mean 0.625, 0.25, 0.125[?]"),
        ((0, 0, 0), "which sum to 0; expected three numbers for low, mid, high"),
        ((1.5, -0.5, 0), "got 1.5, -0.5, 0; expected .* none below zero"),
        ((math.nan, 0.5, 0.5), r"weights\.0\n.*finite number"),
        ((math.inf, 0, 0), r"weights\.0\n.*finite number"),
        ((0.5, 0.5), r"weights\.2\n.*required"),
    ],
    ids=str,
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(ValidationError, match=message):
        HierarchicalExperts.Config(weights=weights)


@pytest.mark.parametrize(("excess", "fits"), [(0.0009, True), (-0.0009, True), (0.0011, False), (-0.0011, False)])
def test_weights_may_be_off_by_a_thousandth(excess, fits):
    if fits:
        assert HierarchicalExperts.Config(weights=(0.5, 0.25, 0.25 + excess)).weights[2] == 0.25 + excess
    else:
        with pytest.raises(ValidationError, match="which sum to"):
            HierarchicalExperts.Config(weights=(0.5, 0.25, 0.25 + excess))


# ------------------------------------------------------------------------------------------------- expert dropout


def transparent(**options):
    """An ``hmoe`` whose experts give unit vectors: its tokens are the weights themselves."""
    module = build(sizes=SIZES | {"context_width": 3}, **options)
    for expert, unit in zip(module.experts, torch.eye(3), strict=True):
        nn.init.zeros_(expert.norm.weight)
        expert.norm.bias.data.copy_(unit)
    return module


def assert_frequency(events, probability):
    """Within five standard deviations of a binomial."""
    bound = 5 * math.sqrt(probability * (1 - probability) / events.numel())
    assert abs(events.double().mean().item() - probability) <= bound


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
def test_experts_are_dropped_as_often_as_said_and_independently(p):
    dropped = drop_experts(torch.full((100_000, 2, 3), 1 / 3), p, torch.Generator().manual_seed(1)) == 0
    assert not dropped.all(dim=2).any()
    for level in range(3):
        assert_frequency(dropped[..., level], p - p**3 / 3)
        others = dropped[..., level] & dropped[..., (level + 1) % 3]
        assert_frequency(others, p**2 * (1 - p) + p**3 / 3)
    both_groups = dropped[:, 0, :, None] & dropped[:, 1, None, :]
    for low in range(3):
        for high in range(3):
            assert_frequency(both_groups[:, low, high], (p - p**3 / 3) ** 2)


def test_the_last_expert_is_kept_evenly():
    kept = drop_experts(torch.full((60_000, 1, 3), 1 / 3), 1.0, torch.Generator().manual_seed(2)) > 0
    assert (kept.sum(dim=2) == 1).all()
    for level in range(3):
        assert_frequency(kept[..., level], 1 / 3)


def test_in_training_a_reference_loses_an_expert_as_a_whole_and_the_rest_keep_their_weights():
    module = transparent(expert_dropout=0.4)
    features = features_of([[0, 0, 1, 1, TEXT]] * 4000)
    routed = module(features).tokens
    tokens = module.train()(features).tokens
    dropped = tokens == 0
    torch.testing.assert_close(tokens, torch.where(dropped, 0, routed))
    assert torch.equal(dropped[:, 0::2][:, :2], dropped[:, 1::2])  # both tokens of each reference
    assert not dropped.all(dim=2).any()
    own = 0.4 - 0.4**3 / 3
    for place in (0, 2, 4):
        for level in range(3):
            assert_frequency(dropped[:, place, level], own)
            assert_frequency(dropped[:, place, level] & dropped[:, (place + 2) % 6, level], own**2)


def test_at_inference_nothing_is_dropped():
    module, features = transparent(expert_dropout=1.0), features_of([[0, 0, 1, 1]] * 50)
    weights = module.router_weights(features).repeat_interleave(2, dim=1)
    torch.testing.assert_close(module(features).tokens, weights)
    assert (module.train()(features).tokens > 0).sum(dim=2).eq(1).all()


def test_training_draws_from_the_parts_own_generator_and_inference_draws_nothing():
    module, features = transparent(expert_dropout=0.5), features_of([[0, 0, 1, 1]] * 50)
    everywhere, own = torch.get_rng_state(), module.generator.get_state()
    module(features)
    assert torch.equal(module.generator.get_state(), own)
    first, second = module.train()(features).tokens, module(features).tokens
    assert not torch.equal(first, second)
    module.generator.set_state(own)
    assert torch.equal(module(features).tokens, first)
    assert torch.equal(torch.get_rng_state(), everywhere)


def test_without_dropout_training_is_as_inference():
    module, features = build(expert_dropout=0.0), features_of([[0, 0, 1, TEXT]])
    expected = module(features).tokens
    assert torch.equal(module.train()(features).tokens, expected)


@given(weights=st.permutations([0.0, 0.4, 0.6]))
def test_of_weights_by_hand_one_above_zero_is_always_kept(weights):
    module = transparent(expert_dropout=1.0, weights=weights).train()
    tokens = module(features_of([[k] for k in (0, 1, 2)] * 20)).tokens
    assert tokens.any(dim=2).all()


@pytest.mark.parametrize(
    "option", [("expert_dropout", -0.1), ("expert_dropout", 1.1), ("router", "top_one"), ("router_hidden", 0)], ids=str
)
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ValidationError, match=option[0]):
        HierarchicalExperts.Config(**dict([option]))
