from dataclasses import replace

import pytest
import torch

from subjectgen.core import ComponentError, StepConditions
from subjectgen.testing.backbone import make_streams, velocity

STEPS = (1.0, 0.7, 0.31)


@pytest.fixture
def guided(build):
    """Two blocks of each kind, a guidance input, and an adapter that does something."""
    backbone = build(sizes={"guidance_embeds": True, "num_layers": 2, "num_single_layers": 2}, lora={"rank": 2})
    for parameter in backbone.trainable_parameters().values():
        torch.nn.init.normal_(parameter, std=0.1)
    return backbone


def requests(streams, guidance=2.5, steps=STEPS):
    return [StepConditions(time, streams.pooled, guidance) for time in steps]


def answers(backbone, streams, guidance=2.5, steps=STEPS):
    with torch.no_grad():
        return [velocity(backbone, streams, timestep=time, guidance=guidance) for time in steps]


def assert_close(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("release", [False, True])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_looked_up_is_computed(guided, release, merged, pooled):
    streams = make_streams(guided, pooled=pooled)
    if merged:
        guided.merge_lora()
    expected = answers(guided, streams)
    with guided.prepare(requests(streams), release=release):
        assert_close(answers(guided, streams), expected, rtol=1e-6, atol=1e-6)


def test_low_precision(build):
    backbone = build(dtype="bfloat16")
    streams = make_streams(backbone)
    expected = answers(backbone, streams, None)
    with backbone.prepare(requests(streams, None), release=True):
        assert_close(answers(backbone, streams, None), expected, rtol=0.02, atol=0.02)


def test_the_layers_do_not_run(guided):
    """Nothing that depends on the conditions only is computed in a prepared forward."""
    streams = make_streams(guided)
    ran = []
    layers = [m.linear for m in guided.transformer.modules() if hasattr(m, "silu")]
    layers.append(guided.transformer.time_text_embed)
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: ran.append(module))
    with guided.prepare(requests(streams)):
        ran.clear()
        answers(guided, streams)
        assert ran == []
    answers(guided, streams, steps=(0.7,))
    assert set(ran) == set(layers)
    assert len(layers) == 2 * 2 + 2 + 1 + 1


def test_weights_come_back_exactly(guided):
    streams = make_streams(guided)
    before = {name: value.clone() for name, value in guided.state_dict().items()}
    with guided.prepare(requests(streams), release=True):
        inside = guided.state_dict()
        assert not any("norm1.linear" in name or "time_text_embed" in name for name in inside)
        assert all(torch.equal(value, before[name]) for name, value in inside.items())
    after = guided.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    with pytest.raises(RuntimeError, match="interrupted"), guided.prepare(requests(streams), release=True):
        raise RuntimeError("interrupted")
    assert list(guided.state_dict()) == list(before)


def test_equal_is_as_good_as_identical(guided):
    streams = make_streams(guided)
    copy = replace(streams, pooled=streams.pooled.clone())
    with guided.prepare(requests(streams), release=True):
        assert_close(answers(guided, copy), answers(guided, streams), rtol=0, atol=0)


def test_rows_may_have_their_own_timesteps(guided):
    streams = make_streams(guided)
    latents, times = torch.randn(2, 4, 4, 6), torch.tensor([0.31, 1.0])
    with torch.no_grad():
        expected = guided(latents, times, streams, guidance=2.5)
        with guided.prepare(requests(streams), release=True):
            torch.testing.assert_close(guided(latents, times, streams, guidance=2.5), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("change", ["timestep", "guidance", "pooled", "constant"])
def test_other_conditions_are_computed_or_refused(guided, change):
    streams = make_streams(guided)
    asked = {
        "timestep": (streams, 2.5, (0.5,)),
        "guidance": (streams, 3.5, STEPS),
        "pooled": (replace(streams, pooled=streams.pooled + 1), 2.5, STEPS),
        "constant": (replace(streams, pooled=None), 2.5, STEPS),
    }[change]
    expected = answers(guided, *asked)
    with guided.prepare(requests(streams)):
        assert_close(answers(guided, *asked), expected, rtol=0, atol=0)
        assert_close(answers(guided, streams), answers(guided, streams), rtol=0, atol=0)
    released = guided.prepare(requests(streams), release=True)
    with released, pytest.raises(ComponentError, match=r"is not prepared \(3 requests at timesteps 1, 0.7, 0.31\)"):
        answers(guided, *asked)


def test_gradients_are_never_lost(guided):
    """A table has none, so forwards with gradients do not use it."""
    streams = make_streams(guided)
    streams.pooled.requires_grad_(True)
    with guided.prepare(requests(streams)):
        velocity(guided, streams, timestep=0.7, guidance=2.5).square().sum().backward()
    assert streams.pooled.grad.any()
    released = guided.prepare(requests(streams), release=True)
    with released, pytest.raises(ComponentError, match="run without gradients"):
        velocity(guided, streams, timestep=0.7, guidance=2.5)


def test_misuse_is_refused(build):
    backbone = build(full_training=True)
    streams = make_streams(backbone)
    with pytest.raises(ComponentError, match="got no requests"), backbone.prepare([]):
        pass
    with backbone.prepare(requests(streams, None)):
        with pytest.raises(ComponentError, match="inside another"), backbone.prepare(requests(streams, None)):
            pass
        with pytest.raises(ComponentError, match="inside prepare"):
            backbone.save_trained("unused")
