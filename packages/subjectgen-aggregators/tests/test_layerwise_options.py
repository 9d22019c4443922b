"""Options of lap and dla: layer subsets, residual, zero-out, and what each modality depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from subjectgen.aggregators.dla import DualLayerAggregator
from subjectgen.aggregators.lap import LayerwiseAttentionPooling
from subjectgen.core import Modality
from subjectgen.testing import features_strategy
from subjectgen.testing.strategies import TEXT, make_features

RUNTIME = {"width": 12, "depth": 6, "context_width": 7, "pooled_width": 3}
LAYER_SETS = st.sets(st.integers(0, 5), min_size=1).map(sorted)
BOTH = pytest.mark.parametrize("component", [LayerwiseAttentionPooling, DualLayerAggregator])


def build(component, *, seed=0, depth=6, **options):
    torch.manual_seed(seed)
    aggregator = component(component.Config(**options), **(RUNTIME | {"depth": depth}))
    with torch.no_grad():
        for name, parameter in aggregator.named_parameters():
            if name.endswith("pooling.weights"):
                parameter.normal_()
    return aggregator.eval()


def mapped(features, change):
    """Features whose layer i at modality m is change(states, i) where it is not None."""
    return replace(features, hidden_states=tuple(change(s, i) for i, s in enumerate(features.hidden_states)))


def tokens_of(conditioning, features, modality):
    return conditioning.tokens[features.modality == modality]


@pytest.mark.parametrize("options", [{}, {"blocks": 2, "qk_norm": True, "residual": True}], ids=str)
@pytest.mark.parametrize("changed", [Modality.TEXT, Modality.IMAGE])
def test_dla_never_mixes_modalities(options, changed):
    """Changing one modality's features leaves the other's tokens alone, bit by bit."""
    dla = build(DualLayerAggregator, **options)
    other = Modality.IMAGE if changed == Modality.TEXT else Modality.TEXT

    @settings(deadline=None, max_examples=20)
    @given(features=features_strategy(12, 6))
    def law(features):
        place = (features.modality == changed)[..., None]
        moved = mapped(features, lambda states, _: torch.where(place, 3 * states + 1, states))
        before, after = dla(features), dla(moved)
        assert torch.equal(tokens_of(before, features, other), tokens_of(after, features, other))
        if place.any():
            assert not torch.equal(tokens_of(before, features, changed), tokens_of(after, features, changed))

    law()


def test_refiner_lets_modalities_see_each_other():
    dla = build(DualLayerAggregator, refiner=1)
    features = make_features([[TEXT, 0, 0]], width=12, depth=6)
    image = (features.modality == Modality.IMAGE)[..., None]
    moved = mapped(features, lambda states, _: torch.where(image, 3 * states + 1, states))
    assert not torch.allclose(dla(features).tokens[:, 0], dla(moved).tokens[:, 0])


@pytest.mark.parametrize("trained", ["text_pooling", "image_pooling"])
def test_dla_has_a_pooling_per_modality(trained):
    """A text token trains the text pooling only, an image token the image pooling only."""
    dla = build(DualLayerAggregator)
    row = [TEXT] if trained == "text_pooling" else [0]
    dla(make_features([row], width=12, depth=6)).tokens.square().sum().backward()
    for name in ("text_pooling", "image_pooling"):
        gradient = getattr(dla, name).blocks[0].value.weight.grad
        assert bool(gradient.any()) == (name == trained)


@BOTH
@pytest.mark.parametrize("mode", ["features", "weights"])
def test_zero_out_applies_at_inference_and_not_in_training(component, mode):
    options = {"zero_out": {"text": "0-2", "image": "late"}, "zero_out_mode": mode}
    usual, zeroed = build(component), build(component, **options)
    features = make_features([[TEXT, 0, 0, TEXT]], width=12, depth=6)
    assert torch.equal(usual.train()(features).tokens, zeroed.train()(features).tokens)
    assert not torch.allclose(usual.eval()(features).tokens, zeroed.eval()(features).tokens)


@BOTH
@pytest.mark.parametrize("options", [{}, {"residual": True, "blocks": 2}, {"inner_dim": 6}], ids=str)
def test_zero_out_equals_features_zeroed_by_hand(component, options):
    aggregator = build(component, **options)

    @settings(deadline=None, max_examples=20)
    @given(features=features_strategy(12, 6), text=LAYER_SETS, image=LAYER_SETS)
    def law(features, text, image):
        def zeroed(states, layer):
            gone = (features.modality == Modality.TEXT) & (layer in text)
            gone |= (features.modality == Modality.IMAGE) & (layer in image)
            return states.masked_fill(gone[..., None], 0)

        expected = aggregator(mapped(features, zeroed)).tokens
        by_option = build(component, zero_out={"text": text, "image": image}, **options)
        torch.testing.assert_close(by_option(features).tokens, expected)

    law()


@BOTH
def test_zero_out_of_weights_equals_weights_zeroed_by_hand(component):
    """The zeroed layers keep being attended to; only their own output is left out of the sum."""
    by_hand = build(component)

    @settings(deadline=None, max_examples=20)
    @given(features=features_strategy(12, 6), layers=LAYER_SETS)
    def law(features, layers):
        aggregator = build(component, zero_out={"text": layers, "image": layers}, zero_out_mode="weights")
        by_hand.load_state_dict(aggregator.state_dict())
        with torch.no_grad():
            for modality in (Modality.TEXT, Modality.IMAGE):
                by_hand.pooling(modality).weights[layers] = 0
        torch.testing.assert_close(aggregator(features).tokens, by_hand(features).tokens)

    law()


@BOTH
@pytest.mark.parametrize("options", [{}, {"blocks": 2, "layer_embedding": True}], ids=str)
def test_layer_subset_equals_a_model_that_has_only_those_layers(component, options):
    @settings(deadline=None, max_examples=20)
    @given(features=features_strategy(12, 6), layers=LAYER_SETS)
    def law(features, layers):
        chosen = build(component, layers=layers, **options)
        shallow = build(component, depth=len(layers), **options)
        assert chosen.layers == tuple(layers)
        subset = replace(features, hidden_states=tuple(features.hidden_states[i] for i in layers))
        torch.testing.assert_close(chosen(features).tokens, shallow(subset).tokens)

    law()


@BOTH
def test_each_modality_may_read_its_own_layers(component):
    aggregator = build(component, layers={"text": "3-5", "image": [0, 2]})
    assert aggregator.layers == (0, 2, 3, 4, 5)
    features = make_features([[TEXT, 0]], width=12, depth=6)

    def moves(modality: Modality) -> set[int]:
        before = tokens_of(aggregator(features), features, modality)
        after = [mapped(features, lambda s, i, layer=layer: s + (i == layer)) for layer in range(6)]
        return {i for i in range(6) if not torch.equal(tokens_of(aggregator(after[i]), features, modality), before)}

    assert moves(Modality.TEXT) == {3, 4, 5}
    assert moves(Modality.IMAGE) == {0, 2}


@BOTH
@pytest.mark.parametrize("layers", ["all", "early"])
def test_residual_adds_the_last_hidden_state(component, layers):
    """Seen before the connector, where pooled tokens and F_M have one width."""
    usual, residual = build(component, layers=layers), build(component, layers=layers, residual=True)
    assert residual.layers[-1] == 5

    @settings(deadline=None, max_examples=20)
    @given(features=features_strategy(12, 6))
    def law(features):
        entered = {}
        hooks = [
            m.connector.register_forward_pre_hook(lambda m, inputs, key=key: entered.update({key: inputs[0]}))
            for key, m in (("usual", usual), ("residual", residual))
        ]
        usual(features), residual(features)
        for hook in hooks:
            hook.remove()
        last = features.hidden_states[5]
        in_order = torch.cat([last[features.modality == m] for m in (Modality.TEXT, Modality.IMAGE)])
        torch.testing.assert_close(entered["residual"], entered["usual"] + in_order)

    law()


@BOTH
def test_pooling_starts_as_an_average(component):
    aggregator = component(component.Config(), **RUNTIME)
    for modality in (Modality.TEXT, Modality.IMAGE):
        torch.testing.assert_close(aggregator.pooling(modality).weights, torch.full((6,), 1 / 6))


@BOTH
@pytest.mark.parametrize("embedding", [False, True])
def test_only_weights_and_embedding_know_the_order_of_layers(component, embedding):
    aggregator = component(component.Config(layer_embedding=embedding), **RUNTIME).eval()
    if embedding:
        with torch.no_grad():
            for modality in (Modality.TEXT, Modality.IMAGE):
                aggregator.pooling(modality).embedding.normal_()
    features = make_features([[TEXT, 0]], width=12, depth=6)
    turned = replace(features, hidden_states=features.hidden_states[::-1])
    same = torch.allclose(aggregator(features).tokens, aggregator(turned).tokens, atol=1e-5)
    assert same == (not embedding)


@BOTH
@pytest.mark.parametrize("options", [{}, {"blocks": 2, "layers": "1-4"}], ids=str)
def test_layer_attention_maps_are_attention(component, options):
    aggregator = build(component, **options)

    @settings(deadline=None, max_examples=20)
    @given(features=features_strategy(12, 6))
    def law(features):
        maps = aggregator.layer_attention(features)
        present = {m.name.lower() for m in (Modality.TEXT, Modality.IMAGE) if (features.modality == m).any()}
        assert {name.partition(".")[0] for name in maps} == present
        for name in present:
            attention, weights = maps[f"{name}.attention"], maps[f"{name}.weights"]
            count = len(maps[f"{name}.layers"])
            assert attention.shape == (count, count)
            assert (attention >= 0).all()
            torch.testing.assert_close(attention.sum(dim=1), torch.ones(count))
            torch.testing.assert_close(maps[f"{name}.effective"].sum(), weights.sum())

    law()


def test_layer_attention_finds_the_layer_that_is_attended_to():
    """One head whose keys grow along the only direction in which layer 4 differs."""
    lap = build(LayerwiseAttentionPooling)
    features = make_features([[TEXT] * 3], width=12, depth=6)
    direction = torch.ones(12)
    moved = mapped(features, lambda s, i: direction.expand_as(s) * (1 if i == 4 else -1) + 0.01 * s)
    block = lap.layer_pooling.blocks[0]
    with torch.no_grad():
        block.key.weight.copy_(torch.eye(12))
        block.query.weight.copy_(20 * torch.ones(12, 12) * torch.sign(direction))
    # Queries of layer 4 point along the direction: it reads itself. The others point against it: all but layer 4.
    attention = lap.layer_attention(moved)["text.attention"]
    assert attention[4].argmax() == 4
    assert (attention[:4, 4] < 1e-3).all()


@BOTH
def test_works_under_autocast(component):
    aggregator = build(component, refiner=1, residual=True, inner_dim=6)
    features = make_features([[TEXT, 0], [TEXT]], width=12, depth=6, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = aggregator(features).tokens
    torch.testing.assert_close(tokens, aggregator(features).tokens, rtol=0.1, atol=0.1)
