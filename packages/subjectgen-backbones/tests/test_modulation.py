import copy
from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel

from subjectgen.backbones import modulation
from subjectgen.backbones.ready_modulation import ReadyModulation
from subjectgen.backbones.site_transformer import FluxTransformer2DModel as OurTransformer
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


def elsewhere(backbone):
    """Leave the layers that only prepare on another device."""
    for layer in backbone.only_prepares():
        layer.to("meta")


def only_prepared(backbone, streams):
    """A prepared backbone that cannot compute any other conditions."""
    prepared = backbone.prepare(requests(streams))
    elsewhere(backbone)
    return prepared


def assert_close(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_looked_up_is_computed(guided, merged, pooled):
    streams = make_streams(guided, pooled=pooled)
    if merged:
        guided.merge_adapter()
    expected = answers(guided, streams)
    assert_close(answers(guided.prepare(requests(streams)), streams), expected, rtol=1e-6, atol=1e-6)


def test_low_precision(build):
    backbone = build(dtype="bfloat16")
    streams = make_streams(backbone)
    expected = answers(backbone, streams, None)
    prepared = backbone.prepare(requests(streams, None))
    assert_close(answers(prepared, streams, None), expected, rtol=0.02, atol=0.02)


def test_the_layers_do_not_run(guided):
    """Nothing that depends on the conditions only is computed in a prepared forward."""
    streams = make_streams(guided)
    ran = []
    layers = guided.only_prepares()
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: ran.append(module))
    prepared = guided.prepare(requests(streams))
    ran.clear()
    answers(prepared, streams)
    assert ran == []
    answers(guided, streams, steps=(0.7,))
    assert set(ran) == set(layers)
    assert len(layers) == 2 * 2 + 2 + 1 + 1


def test_the_transformer_has_diffusers_own_layers(guided):
    """Names, order, sizes and types: whatever looks for them (quantizers, adapters, checkpoints) finds them."""
    sizes = dict(guided.transformer.config)
    plain, ours = (cls.from_config(sizes) for cls in (FluxTransformer2DModel, OurTransformer))
    modules, expected = dict(ours.named_modules()), dict(plain.named_modules())
    assert list(modules) == list(expected)
    for name, module in modules.items():
        assert isinstance(module, type(expected[name])), name
        assert type(module) is type(expected[name]) or isinstance(module, (ReadyModulation, OurTransformer)), name
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (ours, plain)]
    assert shapes[0] == shapes[1]
    assert dict(ours.config) == dict(plain.config)


def test_equal_is_as_good_as_identical(guided):
    streams = make_streams(guided)
    copy = replace(streams, pooled=streams.pooled.clone())
    prepared = only_prepared(guided, streams)
    assert_close(answers(prepared, copy), answers(prepared, streams), rtol=0, atol=0)


def test_rows_may_have_their_own_timesteps(guided):
    streams = make_streams(guided)
    latents, times = torch.randn(2, 4, 4, 6), torch.tensor([0.31, 1.0])
    with torch.no_grad():
        expected = guided(latents, times, streams, guidance=2.5)
        found = only_prepared(guided, streams)(latents, times, streams, guidance=2.5)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_timesteps_are_found_in_the_dtype_they_come_in(guided, dtype):
    """A grid is float64, and what it is rounded to is looked for."""
    streams = make_streams(guided)
    prepared = only_prepared(guided, streams)
    with torch.no_grad():
        for time in STEPS:
            found = prepared(torch.zeros(2, 4, 4, 6), torch.full((2,), time, dtype=dtype), streams, guidance=2.5)
            assert found.isfinite().all()


@pytest.mark.parametrize("change", ["timestep", "guidance", "pooled", "constant"])
def test_other_conditions_are_computed_or_refused(guided, change):
    """Computed as usual, or refused where what would compute them is on another device."""
    streams = make_streams(guided)
    asked = {
        "timestep": (streams, 2.5, (0.5,)),
        "guidance": (streams, 3.5, STEPS),
        "pooled": (replace(streams, pooled=streams.pooled + 1), 2.5, STEPS),
        "constant": (replace(streams, pooled=None), 2.5, STEPS),
    }[change]
    prepared = guided.prepare(requests(streams))
    assert_close(answers(prepared, *asked), answers(guided, *asked), rtol=0, atol=0)
    elsewhere(guided)
    with pytest.raises(ComponentError, match=r"is not prepared \(3 conditions at timesteps 1, 0.7, 0.31\)"):
        answers(prepared, *asked)
    with pytest.raises(ComponentError, match=r"stayed on meta.*nothing is"):
        answers(guided, *asked)


def test_layers_elsewhere_are_copied_to_prepare_and_stay(guided, monkeypatch):
    """One by one; here ``elsewhere`` is the meta device, and what comes back from there is put in by hand."""
    streams = make_streams(guided)
    expected = answers(guided.prepare(requests(streams)), streams)
    values = {id(layer): layer.state_dict() for layer in guided.only_prepares()}
    originals = {id(layer): copy.deepcopy(layer) for layer in guided.only_prepares()}
    elsewhere(guided)
    monkeypatch.setattr(modulation.copy, "deepcopy", lambda layer: originals[id(layer)])
    found = answers(guided.prepare(requests(streams)), streams)
    assert_close(found, expected, rtol=0, atol=0)
    assert {p.device.type for layer in guided.only_prepares() for p in layer.parameters()} == {"meta"}
    assert len(values) == len(originals)


def test_gradients_need_the_layers(guided):
    """A table has none, so forwards with gradients do not use it."""
    streams = make_streams(guided)
    prepared = guided.prepare(requests(streams))
    elsewhere(guided)
    with pytest.raises(ComponentError, match="run without gradients"):
        velocity(prepared, streams, timestep=0.7, guidance=2.5)


def test_nothing_to_prepare_is_refused(guided):
    with pytest.raises(ComponentError, match="got no conditions"):
        guided.prepare([])


def test_weights_are_saved_and_loaded_beside_a_prepared_denoising(build, tmp_path):
    backbone = build(full_training=True)
    streams = make_streams(backbone)
    prepared = backbone.prepare(requests(streams, None))
    before = answers(prepared, streams, None)
    backbone.save_trained(tmp_path)
    backbone.load_trained(tmp_path)
    assert_close(answers(prepared, streams, None), before, rtol=0, atol=0)
