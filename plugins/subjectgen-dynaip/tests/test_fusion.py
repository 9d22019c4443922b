"""The baselines are what their names say, and levels are found and refused alike in all four aggregators."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from pydantic import ValidationError
from torch.nn import functional

from subjectgen.core import Changes, ComponentError, Defines
from subjectgen.core.roles import values
from subjectgen.testing.strategies import TEXT, make_features
from subjectgen_dynaip.fusion import AddFusion, ConcatFusion, SingleLevel
from subjectgen_dynaip.hmoe import HierarchicalExperts
from subjectgen_dynaip.levels import default_levels

SIZES = {"width": 6, "depth": 13, "context_width": 7, "pooled_width": None}
LEVELLED = pytest.mark.parametrize("component", [HierarchicalExperts, AddFusion, ConcatFusion])


def build(component, **options):
    torch.manual_seed(0)
    return component(component.Config(**options), **SIZES).double()


def features():
    return make_features([[TEXT, 0, 0, 1], [0]], width=SIZES["width"], depth=SIZES["depth"], dtype=torch.float64)


def expert(part, tokens):
    """Linear, GELU, normalization, each by torch's own function."""
    active = functional.gelu(functional.linear(tokens, part.project.weight, part.project.bias))
    return functional.layer_norm(active, active.shape[-1:], part.norm.weight, part.norm.bias)


# -------------------------------------------------------------------------------------------------- the three ways


@pytest.mark.parametrize(("mean", "divisor"), [(False, 1), (True, 3)])
def test_add_is_the_sum_of_three_experts(mean, divisor):
    module, given_ = build(AddFusion, levels=(1, 4, 9), mean=mean), features()
    parts = [expert(part, given_.hidden_states[i]) for part, i in zip(module.experts, (1, 4, 9), strict=True)]
    expected = sum(parts) / divisor * given_.mask[..., None]
    torch.testing.assert_close(module(given_).tokens, expected)


def test_add_with_mean_is_the_mixture_with_equal_weights():
    module = build(AddFusion, mean=True)
    mixture = build(HierarchicalExperts, weights=(1 / 3, 1 / 3, 1 / 3)).eval()
    mixture.experts.load_state_dict(module.experts.state_dict())
    torch.testing.assert_close(module(features()).tokens, mixture(features()).tokens)


def test_concat_is_one_expert_on_three_levels_side_by_side():
    module, given_ = build(ConcatFusion, levels=(1, 4, 9)), features()
    side_by_side = torch.cat([given_.hidden_states[i] for i in (1, 4, 9)], dim=2)
    torch.testing.assert_close(module(given_).tokens, expert(module.expert, side_by_side) * given_.mask[..., None])


@pytest.mark.parametrize(
    ("level", "index"), [("low", 5), ("mid", 9), ("high", 12), (0, 0), (12, 12), (-1, 12), (-13, 0), ("7", 7)]
)
def test_single_level_is_one_expert_on_that_level(level, index):
    module, given_ = build(SingleLevel, level=level), features()
    assert module.layers == (index,)
    expected = expert(module.expert, given_.hidden_states[index]) * given_.mask[..., None]
    torch.testing.assert_close(module(given_).tokens, expected)


EXPERT = 1024 * 4096 + 4096 + 2 * 4096


@pytest.mark.parametrize(
    ("component", "options", "parameters"),
    [
        (HierarchicalExperts, {}, 3 * EXPERT + (3 * 1024 * 1024 + 1024) + (1024 * 3 + 3)),
        (HierarchicalExperts, {"router_hidden": 256}, 3 * EXPERT + (3 * 1024 * 256 + 256) + (256 * 3 + 3)),
        (HierarchicalExperts, {"router": "per_level"}, 3 * EXPERT + 3 * ((1024 * 1024 + 1024) + (1024 + 1))),
        (AddFusion, {}, 3 * EXPERT),
        (ConcatFusion, {}, EXPERT + 2 * 1024 * 4096),
        (SingleLevel, {}, EXPERT),
    ],
)
def test_sizes_at_clip_l_and_flux(component, options, parameters):
    with torch.device("meta"):
        module = component(component.Config(**options), width=1024, depth=25, context_width=4096, pooled_width=768)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert module.layers == ((24,) if component is SingleLevel else (10, 17, 24))


# --------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("blocks", "levels"), [(24, (10, 17, 24)), (12, (5, 9, 12)), (32, (13, 23, 32)), (4, (2, 3, 4)), (2, (0, 1, 2))]
)
def test_levels_keep_the_papers_proportions(blocks, levels):
    assert default_levels(blocks + 1) == levels


@given(blocks=st.integers(2, 300))
def test_levels_of_any_encoder_rise_to_its_last_hidden_state(blocks):
    low, mid, high = default_levels(blocks + 1)
    assert 0 <= low < mid < high == blocks
    if blocks >= 4:  # below, two of them would round to the same
        assert abs(low - 10 / 24 * blocks) <= 0.5
        assert abs(mid - 17 / 24 * blocks) <= 0.5


@LEVELLED
def test_levels_may_count_from_the_last(component):
    assert build(component, levels=(-10, 6, -1)).layers == (3, 6, 12)


@pytest.mark.parametrize(
    ("component", "key"),
    [*((c, "levels") for c in (HierarchicalExperts, AddFusion, ConcatFusion)), (SingleLevel, "level")],
)
def test_what_defines_the_weights_is_the_hidden_states_that_the_option_means(component, key):
    module = build(component)
    assert isinstance(module, Defines)
    written = build(component, **{key: [5, 9, 12] if key == "levels" else 12})
    assert module.defining == written.defining
    assert set(module.defining) <= set(values(component.Config(), Changes.WEIGHTS))


@LEVELLED
@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((10, 17, 24), "levels: got 17; the encoder has hidden states 0-12; did you mean 12?"),
        ((-14, 6, 12), "levels: got -14; the encoder has hidden states 0-12; did you mean 0?"),
        (
            (6, 3, -1),
            "levels: got 6, 3, 12; expected low, mid, high, each above the one before; did you mean 3, 6, 12?",
        ),
        ((3, 12, -1), "levels: got 3, 12, 12; expected low, mid, high, each above the one before"),
    ],
    ids=str,
)
def test_levels_that_the_encoder_lacks_or_that_do_not_rise_are_refused(component, levels, message):
    with pytest.raises(ComponentError) as caught:
        build(component, levels=levels)
    assert str(caught.value) == message


@LEVELLED
@pytest.mark.parametrize("levels", [(17, 10, 24), (10, 10, 24), (-1, -5, -9)])
def test_levels_that_cannot_rise_are_refused_before_any_encoder_is_there(component, levels):
    with pytest.raises(ValidationError, match=f"levels: got {levels[0]}, {levels[1]}, {levels[2]}; expected low"):
        component.Config(levels=levels)


@LEVELLED
def test_an_encoder_of_two_hidden_states_has_no_three_levels(component):
    with pytest.raises(ComponentError, match="the encoder has 2 hidden states; expected at least three"):
        component(component.Config(), **SIZES | {"depth": 2})


@pytest.mark.parametrize("depth", [1, 2])
def test_the_highest_level_is_there_in_any_encoder(depth):
    assert SingleLevel(SingleLevel.Config(), **SIZES | {"depth": depth}).layers == (depth - 1,)


@pytest.mark.parametrize(("level", "closest"), [(13, 12), (-14, 0)])
def test_a_single_level_that_the_encoder_lacks_is_refused(level, closest):
    message = f"level: got {level}; the encoder has hidden states 0-12; did you mean {closest}[?]"
    with pytest.raises(ComponentError, match=message):
        build(SingleLevel, level=level)


def test_a_misspelt_level_is_answered_with_the_nearest():
    with pytest.raises(ValidationError, match=r"level: 'hihg' is no level; .* did you mean 'high'\?"):
        SingleLevel.Config(level="hihg")


READERS = [(HierarchicalExperts, "router_weights")]
READERS += [(component, "forward") for component in (HierarchicalExperts, AddFusion, ConcatFusion, SingleLevel)]


@pytest.mark.parametrize(("component", "reader"), READERS)
def test_features_of_another_encoder_are_refused(component, reader):
    read = getattr(build(component), reader)
    for width, depth in ((8, 13), (6, 12)):
        message = f"{component.__name__} was built for 13 hidden states of width 6, .* have {depth} of width {width}"
        with pytest.raises(ComponentError, match=message):
            read(make_features([[0]], width=width, depth=depth))


@pytest.mark.parametrize(("component", "reader"), READERS)
def test_a_hidden_state_that_was_not_kept_is_named(component, reader):
    read, given_ = getattr(build(component), reader), features()
    states = tuple(state if i < 2 or i in (5, 9) else None for i, state in enumerate(given_.hidden_states))
    message = r"hidden state 12 is missing, the features hold only \[0, 1, 5, 9\]"
    with pytest.raises(ComponentError, match=message):
        read(replace(given_, hidden_states=states))
