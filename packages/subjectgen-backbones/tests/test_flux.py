import inspect
from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from pydantic import ValidationError
from torch.overrides import TorchFunctionMode

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.backbones.options import FluxArchitecture
from subjectgen.backbones.packing import pack_latents, unpack_latents
from subjectgen.backbones.positions import grid_position_ids, reference_position_ids
from subjectgen.backbones.reference_tokens import ReferenceTokensInjector
from subjectgen.core import CheckpointError, ComponentError, InputError, Latents
from subjectgen.testing.backbone import make_streams, velocity

GRID = (2, 3)


def latents_and_timestep():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 4, 6, generator=generator), torch.tensor([0.9, 0.3])


@pytest.mark.parametrize("guidance", [None, 2.5])
def test_text_to_image_is_diffusers_own(build, guidance):
    backbone = build(sizes={"guidance_embeds": guidance is not None})
    streams = make_streams(backbone, references=())
    latents, timestep = latents_and_timestep()
    with torch.no_grad():
        expected = backbone.transformer(
            hidden_states=pack_latents(latents),
            encoder_hidden_states=streams.context[0].tokens,
            pooled_projections=streams.pooled,
            timestep=timestep,
            img_ids=grid_position_ids(GRID),
            txt_ids=torch.zeros(3, 3),
            guidance=None if guidance is None else torch.full((2,), guidance),
        ).sample
        assert torch.equal(backbone(latents, timestep, streams, guidance=guidance), unpack_latents(expected, GRID))


def test_references_follow_the_target_and_are_cut_off(backbone):
    """UNO's layout, written by hand with diffusers' class."""
    latents, timestep = latents_and_timestep()
    references = (torch.randn(2, 4, 2, 4), torch.randn(2, 4, 6, 2))
    injector = ReferenceTokensInjector(ReferenceTokensInjector.Config(), backbone=backbone)
    streams = make_streams(backbone, references=())
    packed = [pack_latents(image) for image in (latents, *references)]
    with torch.no_grad():
        expected = backbone.transformer(
            hidden_states=torch.cat(packed, dim=1),
            encoder_hidden_states=streams.context[0].tokens,
            pooled_projections=streams.pooled,
            timestep=timestep,
            img_ids=torch.cat([grid_position_ids(GRID), *reference_position_ids(GRID, [(1, 2), (3, 1)])]),
            txt_ids=torch.zeros(3, 3),
        ).sample[:, : GRID[0] * GRID[1]]
        result = backbone(latents, timestep, injector(streams, Latents(values=references)))
    assert torch.equal(result, unpack_latents(expected, GRID))


def test_without_a_pooled_vector_the_constant_is_used(build):
    numbers = [0.1 * n for n in range(12)]
    backbone = build(constant_pooled=numbers)
    streams = make_streams(backbone, pooled=False)
    given = replace(streams, pooled=torch.tensor([numbers, numbers]))
    with torch.no_grad():
        assert torch.equal(velocity(backbone, streams), velocity(backbone, given))
        assert not torch.equal(velocity(backbone, streams), velocity(build(), streams))


def test_context_groups_follow_each_other(backbone):
    streams = make_streams(backbone, context=4)
    (group,) = streams.context
    parts = tuple(
        replace(group, tokens=group.tokens[:, cut], mask=group.mask[:, cut]) for cut in (slice(0, 1), slice(1, 4))
    )
    split = replace(streams, context=parts)
    with torch.no_grad():
        assert torch.equal(velocity(backbone, split), velocity(backbone, streams))


class Doubled:
    """Adds to each attention's output what it gave for the target, and remembers what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, site, query, output, layout):
        self.calls.append((site, query.shape, output.shape, layout))
        added = torch.zeros_like(output)
        added[:, layout.target] = output[:, layout.target]
        return output + added


def test_additions_run_in_every_attention_in_order(backbone):
    streams = make_streams(backbone, grid=(2, 3), context=4, references=((2, 2),))
    addition = Doubled()
    with torch.no_grad():
        before = velocity(backbone, streams)
        after = velocity(backbone, replace(streams, attention=(addition,)))
    assert not torch.allclose(after, before)
    assert [call[0] for call in addition.calls] == list(range(len(backbone.attention_sites)))
    for (_, query, output, layout), site in zip(addition.calls, backbone.attention_sites, strict=True):
        assert query == output == (2, 4 + 6 + 4, site.heads, site.head_width)
        assert (layout.context, layout.target, layout.references) == (slice(0, 4), slice(4, 10), slice(10, 14))


def rotated(values, positions, axes):
    """Rotary positions (arXiv 2104.09864) as FLUX lays them out, written out: values (b, n, heads, e), ids (n, 3)."""
    angles = []
    for axis, width in enumerate(axes):
        rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles.append(positions[:, axis, None].double() * rates)
    angles = torch.cat(angles, dim=1)[None, :, None]
    pairs = values.double().unflatten(-1, (-1, 2))
    cosine, sine = angles.cos(), angles.sin()
    first, second = pairs[..., 0], pairs[..., 1]
    return torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1).flatten(3)


def normalized(values, norm):
    """RMSNorm written out."""
    scale = (values.double().square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    return values.double() * scale * norm.weight.double()


def test_additions_get_position_encoded_queries_and_act_before_the_projection(backbone):
    """From the weights alone: q = rope(norm(W_q x)) for every token, and what an addition returns is projected."""
    streams = make_streams(backbone, grid=(2, 3), context=4, references=((2, 2),))
    seen, inputs, projected = {}, {}, {}
    transformer = backbone.transformer
    attentions = [transformer.get_submodule(site.name) for site in backbone.attention_sites]
    for number, attention in enumerate(attentions):
        attention.register_forward_pre_hook(
            lambda _, __, keywords, number=number: inputs.update({number: keywords}), with_kwargs=True
        )
        if attention.added_kv_proj_dim is not None:
            for name, layer in (("context", attention.to_add_out), ("image", attention.to_out[0])):
                layer.register_forward_pre_hook(lambda _, given, key=(number, name): projected.update({key: given[0]}))

    def addition(site, query, output, layout):
        seen[site] = query, output * 2 + query, layout
        return seen[site][1]

    with torch.no_grad():
        velocity(backbone, replace(streams, attention=(addition,)))
    ids = torch.cat([torch.zeros(4, 3), grid_position_ids((2, 3)), *reference_position_ids((2, 3), [(2, 2)])])
    for number, (attention, site) in enumerate(zip(attentions, backbone.attention_sites, strict=True)):
        query, returned, layout = seen[number]
        given = inputs[number]
        parts = [normalized(attention.to_q(given["hidden_states"]).unflatten(-1, (site.heads, -1)), attention.norm_q)]
        if attention.added_kv_proj_dim is not None:
            context = attention.add_q_proj(given["encoder_hidden_states"]).unflatten(-1, (site.heads, -1))
            parts.insert(0, normalized(context, attention.norm_added_q))
            for name, tokens in (("context", layout.context), ("image", slice(layout.target.start, None))):
                torch.testing.assert_close(projected[number, name], returned[:, tokens].flatten(2))
        expected = rotated(torch.cat(parts, dim=1), ids, transformer.config.axes_dims_rope)
        torch.testing.assert_close(query.double(), expected, rtol=1e-4, atol=1e-5)


def test_sites_are_named_as_the_modules(backbone):
    for site in backbone.attention_sites:
        assert backbone.transformer.get_submodule(site.name).heads == site.heads


def test_an_addition_that_adds_nothing_changes_no_bit(backbone):
    streams = make_streams(backbone)
    nothing = replace(streams, attention=(lambda site, query, output, layout: output + 0.0,))
    with torch.no_grad():
        assert torch.equal(velocity(backbone, nothing), velocity(backbone, streams))


def test_the_attention_is_diffusers_own(backbone):
    """Without additions, operation for operation."""
    streams = make_streams(backbone)
    with torch.no_grad():
        ours = velocity(backbone, streams)
        backbone.transformer.set_attn_processor(FluxAttnProcessor())
        assert torch.equal(velocity(backbone, streams), ours)


class Masks(TorchFunctionMode):
    """The masks that attentions get."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function is torch.nn.functional.scaled_dot_product_attention:
            self.seen.append(keywords["attn_mask"])
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("reference_attention", ["full", "isolated"])
@pytest.mark.parametrize("stage", ["early", "middle", "late"])
def test_no_mask_where_none_is_needed(build, reference_attention, stage):
    """Attention without a mask has its fast kernels; one hidden token is enough to need one."""
    backbone = build(reference_attention=reference_attention)
    middle = make_streams(backbone)
    streams = {
        "early": replace(middle, references=()),
        "middle": middle,
        "late": replace(middle, context=(), pooled=None),
    }[stage]
    with torch.no_grad(), Masks() as masks:
        velocity(backbone, streams)
        velocity(backbone, backbone.cache_references(streams))
    assert masks.seen
    assert all(mask is None for mask in masks.seen)
    group = (streams.references or streams.context)[0]
    hidden = group.mask.clone()
    hidden[0, -1] = False
    place = "references" if streams.references else "context"
    with torch.no_grad(), Masks() as masks:
        velocity(backbone, replace(streams, **{place: (replace(group, mask=hidden),)}))
    assert all(mask.dtype == torch.bool for mask in masks.seen)
    lengths = {mask.shape[-1] for mask in masks.seen}
    everything = 6 + sum(group.tokens.shape[1] for group in (*streams.context, *streams.references))
    isolated = reference_attention == "isolated" and stage != "early"
    assert lengths == ({everything, 4} if isolated else {everything})


def test_low_precision_weights_take_and_give_float32(build):
    backbone = build(dtype="bfloat16", lora={"rank": 2})
    streams = make_streams(backbone)
    result = velocity(backbone, streams)
    assert result.dtype == torch.float32
    result.sum().backward()
    assert {p.dtype for p in backbone.trainable_parameters().values()} == {torch.float32}
    full = velocity(build(), streams)
    assert (result - full).norm() < 0.05 * full.norm()  # bfloat16 keeps about 2.5 digits


def test_full_training_round_trip(build, tmp_path):
    backbone = build(full_training=True)
    assert len(backbone.trainable_parameters()) == len(list(backbone.transformer.parameters()))
    assert all(p.requires_grad for p in backbone.trainable_parameters().values())
    backbone.save_trained(tmp_path)
    other = build(full_training=True)
    torch.nn.init.normal_(other.transformer.proj_out.weight)
    other.load_trained(tmp_path)
    streams = make_streams(backbone)
    with torch.no_grad():
        assert torch.equal(velocity(other, streams), velocity(backbone, streams))
    assert isinstance(FluxTransformer2DModel.from_pretrained(tmp_path / "transformer"), FluxTransformer2DModel)
    wider = build(sizes={"num_layers": 2}, full_training=True)
    with pytest.raises(CheckpointError, match="does not fit"):
        wider.load_trained(tmp_path)


def test_without_training_everything_is_frozen(backbone, tmp_path):
    assert not any(p.requires_grad for p in backbone.parameters())
    assert backbone.trainable_parameters() == {}
    backbone.save_trained(tmp_path)
    backbone.load_trained(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither given"),
        ({"checkpoint": "a/b", "architecture": {}}, "both given"),
        ({"architecture": {}, "lora": {}, "full_training": True}, "at most one"),
        ({"architecture": {"axes_dims_rope": [16, 56, 58]}}, "add up to attention_head_dim = 128"),
        ({"architecture": {"in_channels": 6}}, "multiple of 4"),
    ],
)
def test_config_mistakes(settings, message):
    with pytest.raises(ValidationError, match=message):
        FluxBackbone.Config.model_validate(settings)


def test_architecture_defaults_are_flux_dev():
    """Diffusers' own defaults, but for the guidance input that only dev has."""
    signature = inspect.signature(FluxTransformer2DModel.__init__)
    defaults = FluxArchitecture().model_dump()
    assert defaults.pop("guidance_embeds") is True
    assert defaults == {name: signature.parameters[name].default for name in defaults}


def test_bad_inputs_are_refused(build):
    plain, guided = build(), build(sizes={"guidance_embeds": True})
    streams = make_streams(plain)
    with pytest.raises(InputError, match="no guidance input"):
        velocity(plain, streams, guidance=2.5)
    with pytest.raises(InputError, match="a guidance input"):
        velocity(guided, streams, guidance=None)
    with pytest.raises(InputError, match=r"target_grid is \(2, 3\), but the latents have \(1, 1\)"):
        plain(torch.zeros(2, 4, 2, 2), torch.ones(2), streams)
    with pytest.raises(ComponentError, match="has 2 numbers; expected 12"):
        build(constant_pooled=[0.0, 1.0])
