"""Layer ranges as YAML writes them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from subjectgen.aggregators.dla import DualLayerAggregator
from subjectgen.aggregators.lap import LayerwiseAttentionPooling
from subjectgen.aggregators.layer_selection import layer_groups, select_layers
from subjectgen.core import Changes, ComponentError, Defines
from subjectgen.core.roles import values


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", range(29)),
        ("0-28", range(29)),
        (["0-9", "20-28"], [*range(10), *range(20, 29)]),
        ("2-28:3", range(2, 29, 3)),
        (7, [7]),
        ("7", [7]),
        (-1, [28]),
        ([5, 3, "3-4"], [3, 4, 5]),
        ([], []),
        ("early", range(10)),
        ("middle", range(10, 20)),
        ("late", range(20, 29)),
    ],
    ids=str,
)
def test_ranges_of_the_papers_model(layers, expected):
    assert select_layers(layers, 29, key="layers") == tuple(expected)


@given(depth=st.integers(3, 100))
def test_groups_partition_any_depth_in_the_papers_proportions(depth):
    groups = layer_groups(depth)
    assert [i for group in groups.values() for i in group] == list(range(depth))
    for group, share in zip(groups.values(), (10 / 29, 10 / 29, 9 / 29), strict=True):
        assert group
        assert abs(len(group) - share * depth) <= 1


@given(depth=st.integers(1, 60), data=st.data())
def test_a_range_is_itself_or_refused(depth, data):
    first = data.draw(st.integers(0, 70))
    last = data.draw(st.integers(first, 70))
    if last < depth:
        assert select_layers(f"{first}-{last}", depth, key="layers") == tuple(range(first, last + 1))
    else:
        with pytest.raises(ComponentError, match=f"{depth} hidden states"):
            select_layers(f"{first}-{last}", depth, key="layers")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("0-29", r"layers.text: '0-29' is outside the model, which has 29 .* valid are 0-28; did you mean '0-28'"),
        (29, "outside the model"),
        (-30, "outside the model"),
        ([], "no layer is selected; valid are 0-28"),
    ],
    ids=str,
)
def test_a_range_outside_the_model_names_key_and_depth(layers, message):
    config = DualLayerAggregator.Config(layers={"text": layers})
    with pytest.raises(ComponentError, match=message):
        DualLayerAggregator(config, width=8, depth=29, context_width=4, pooled_width=4)


def test_a_group_that_a_shallow_model_lacks_is_refused():
    with pytest.raises(ComponentError, match="2 hidden states has no 'middle' layers"):
        select_layers("middle", 2, key="layers")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("erly", "did you mean 'early'"),
        ("9-0", "did you mean '0-9'"),
        ("0..28", "expected an index"),
        ([1, "x"], "'x' is not a layer range"),
        (1.5, "1.5 is not a layer range"),
        (True, "True is not a layer range"),
        (None, "None is not a layer range"),
        ({"txt": "0-9"}, "txt"),
    ],
    ids=str,
)
def test_a_malformed_range_is_refused_by_the_config(layers, message):
    with pytest.raises(ValidationError, match=message):
        DualLayerAggregator.Config(layers=layers)


def test_a_plain_range_stands_for_both_modalities():
    config = DualLayerAggregator.Config
    assert config(layers="0-3") == config(layers={"text": "0-3", "image": "0-3"})
    assert config(**config(layers="0-3").model_dump()) == config(layers="0-3")


def test_a_layer_to_zero_that_the_model_lacks_is_refused():
    config = DualLayerAggregator.Config(zero_out={"image": "2-9"})
    with pytest.raises(ComponentError, match=r"zero_out.image: '2-9' is outside the model, .* did you mean '2-3'"):
        DualLayerAggregator(config, width=8, depth=4, context_width=4, pooled_width=4)


@pytest.mark.parametrize(("component"), [DualLayerAggregator, LayerwiseAttentionPooling])
def test_what_defines_the_weights_is_what_the_options_mean_for_this_encoder(component):
    """``early`` of 29 hidden states is 0-9; the keys are the config's own."""
    sizes = {"width": 256, "context_width": 4, "pooled_width": 4}
    words = component(component.Config(layers={"text": "all", "image": "early"}), depth=29, **sizes)
    numbers = {"layers": {"text": "0-28", "image": "0-9"}, "heads": 2, "inner_dim": 256}
    written = component(component.Config(**numbers), depth=29, **sizes)
    assert isinstance(words, Defines)
    assert words.defining == written.defining
    assert words.defining["layers.image"] == list(range(10))
    assert set(words.defining) <= set(values(words.config, Changes.WEIGHTS))
