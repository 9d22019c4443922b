"""References that attend to references only."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention

from subjectgen.backbones.positions import grid_position_ids, reference_position_ids
from subjectgen.backbones.references import CachedStreams, visible_references
from subjectgen.core import Placement, StepConditions
from subjectgen.testing.backbone import make_streams, masked, velocity

REFERENCES = ((2, 2), (1, 3))


@pytest.fixture
def isolated(build):
    def make(**settings):
        sizes = {"num_layers": 2, "num_single_layers": 2, **settings.pop("sizes", {})}
        return build(sizes=sizes, reference_attention="isolated", **settings)

    return make


def answer(backbone, streams, **changes):
    with torch.no_grad():
        return velocity(backbone, streams, **changes)


def hide(streams, *, rows=(0,)):
    """The last token of the first reference hidden in some rows, and the whole second reference in the first row."""
    first, second = streams.references
    masks = first.mask.clone(), second.mask.clone()
    masks[0][list(rows), -1] = False
    masks[1][0] = False
    return replace(streams, references=(replace(first, mask=masks[0]), replace(second, mask=masks[1])))


@pytest.mark.parametrize("settings", [{}, {"lora": {"rank": 2}}, {"lora": {"rank": 2}, "dtype": "bfloat16"}])
@pytest.mark.parametrize("hidden", [False, True])
def test_cached_is_recomputed_bit_for_bit(isolated, settings, hidden):
    backbone = isolated(**settings)
    for parameter in backbone.trainable_parameters().values():
        torch.nn.init.normal_(parameter, std=0.1)
    streams = make_streams(backbone, references=REFERENCES)
    streams = hide(streams) if hidden else streams
    times = (0.97, 0.5, 0.1)
    prepared = backbone.prepare([StepConditions(time, streams.pooled) for time in times])
    for used in (backbone, prepared):
        kept = used.cache_references(streams)
        assert isinstance(kept, CachedStreams)
        for time in times:
            assert torch.equal(answer(used, kept, timestep=time), answer(used, streams, timestep=time))


def passes(backbone):
    """Filled with the number of tokens of every pass through the first block."""
    lengths = []
    backbone.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda _, __, named: lengths.append(named["hidden_states"].shape[1]), with_kwargs=True
    )
    return lengths


def test_kept_references_are_not_computed_again(isolated):
    backbone = isolated()
    streams = make_streams(backbone, references=REFERENCES)
    ran = passes(backbone)
    kept = backbone.cache_references(streams)
    assert ran == [7]
    answer(backbone, kept)
    answer(backbone, kept, timestep=0.2)
    assert ran == [7, 6, 6]
    answer(backbone, streams)
    assert ran == [7, 6, 6, 7, 6]


def test_changed_weights_are_noticed(isolated, tmp_path):
    """By a step of training and by loading, of which each writes to the adapter."""
    backbone = isolated(lora={"rank": 2})
    streams = make_streams(backbone)
    backbone.save_trained(tmp_path)
    optimizer = torch.optim.AdamW(backbone.trainable_parameters().values(), lr=0.1)
    for change in (optimizer.step, lambda: backbone.load_trained(tmp_path)):
        kept = backbone.cache_references(streams)
        assert kept.valid
        velocity(backbone, kept).square().sum().backward()
        change()
        assert not kept.valid
        assert torch.equal(answer(backbone, kept), answer(backbone, streams))
        assert backbone.cache_references(streams, like=[kept]).valid


def test_gradients_are_never_lost(isolated):
    """What is kept has none, so forwards with gradients do not use it."""
    backbone = isolated(full_training=True)
    streams = make_streams(backbone)
    expected = gradients(backbone, streams)
    backbone.zero_grad()
    found = gradients(backbone, backbone.cache_references(make_streams(backbone)))
    assert expected["references"].any()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_keys_and_values_depend_on_references_only(isolated):
    """Neither context, nor pooled vector, nor (without an offset) target size enter; every reference enters those of
    all others.
    """
    backbone = isolated(sizes={"guidance_embeds": True}, reference_offset="none")
    streams = make_streams(backbone, references=REFERENCES)
    other = make_streams(backbone, references=REFERENCES, seed=5)
    same = backbone.cache_references(replace(other, references=streams.references, target_grid=(1, 1)))
    changed = backbone.cache_references(replace(streams, references=(streams.references[0], other.references[1])))
    kept = backbone.cache_references(streams)
    first = slice(0, 4)
    for site, (one, alike, different) in enumerate(
        zip(kept.keys_values, same.keys_values, changed.keys_values, strict=True)
    ):
        assert torch.equal(one.keys, alike.keys)
        assert torch.equal(one.values, alike.values)
        assert torch.equal(one.values[:, first], different.values[:, first]) == (site == 0)


def test_references_are_a_clean_image_of_their_own(isolated):
    """What diffusers' class has of them as its only tokens, at t = 0, guidance 1 and the constant pooled vector."""
    pooled = [0.1 * n for n in range(12)]
    backbone = isolated(sizes={"guidance_embeds": True}, constant_pooled=pooled)
    streams = make_streams(backbone, references=REFERENCES)
    theirs = FluxTransformer2DModel.from_config(dict(backbone.transformer.config))
    theirs.load_state_dict(backbone.transformer.state_dict())
    keys, values = [], []
    for attention in (module for module in theirs.modules() if isinstance(module, FluxAttention)):
        attention.norm_k.register_forward_hook(lambda _, __, out: keys.append(out))
        attention.to_v.register_forward_hook(lambda _, __, out: values.append(out.unflatten(-1, (2, -1))))
    ids = torch.cat(reference_position_ids(streams.target_grid, REFERENCES))
    with torch.no_grad():
        theirs(
            hidden_states=torch.cat([group.tokens for group in streams.references], dim=1),
            encoder_hidden_states=torch.zeros(2, 0, 24),
            pooled_projections=torch.tensor([pooled, pooled]),
            timestep=torch.zeros(2),
            guidance=torch.ones(2),
            img_ids=ids,
            txt_ids=torch.zeros(0, 3),
        )
    rotary = backbone.transformer.pos_embed(ids)
    for kept, key, value in zip(backbone.cache_references(streams).keys_values, keys, values, strict=True):
        assert torch.equal(kept.keys, apply_rotary_emb(key, rotary, sequence_dim=1))
        assert torch.equal(kept.values, value)


def test_target_and_context_attend_to_all(isolated):
    """The first attention, written out: softmax(q k^T / sqrt(e)) v over context, target and references."""
    backbone = isolated(sizes={"num_layers": 0, "num_single_layers": 1})
    streams = hide(make_streams(backbone, references=REFERENCES))
    kept = backbone.cache_references(streams)
    seen = []

    def look(site, query, output, layout):
        seen.append((query, output, layout))
        return output

    own = {}
    attention = backbone.transformer.single_transformer_blocks[0].attn
    attention.to_v.register_forward_hook(lambda _, __, out: own.setdefault("values", out))
    attention.norm_k.register_forward_hook(lambda _, __, out: own.setdefault("keys", out))
    answer(backbone, replace(kept, attention=(look,)))
    (query, output, layout) = seen[0]
    assert (layout.context, layout.target, layout.references) == (slice(0, 3), slice(3, 9), slice(9, 9))
    rotary = backbone.transformer.pos_embed(torch.cat((torch.zeros(3, 3), grid_position_ids((2, 3)))))
    keys = apply_rotary_emb(own["keys"], rotary, sequence_dim=1)
    keys = torch.cat((keys, kept.keys_values[0].keys), dim=1)
    values = torch.cat((own["values"].unflatten(-1, (2, -1)), kept.keys_values[0].values), dim=1)
    scores = torch.einsum("bqhe,bkhe->bhqk", query, keys) / query.shape[-1] ** 0.5
    mask = torch.cat([torch.ones(2, 9, dtype=torch.bool), *(group.mask for group in streams.references)], dim=1)
    weights = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
    torch.testing.assert_close(output, torch.einsum("bhqk,bkhe->bqhe", weights, values))


def test_without_references_it_is_full_attention(isolated, build):
    full = build(sizes={"num_layers": 2, "num_single_layers": 2})
    backbone = isolated()
    streams = make_streams(backbone, references=())
    assert torch.equal(answer(backbone, streams), answer(full, streams))
    assert backbone.cache_references(streams) is streams
    with_references = make_streams(full)
    assert full.cache_references(with_references) is with_references
    assert not torch.allclose(answer(backbone, with_references), answer(full, with_references))


def test_a_row_without_references_is_defined(isolated):
    """One row sees no reference at all; the other is not touched by that."""
    backbone = isolated()
    streams = make_streams(backbone)
    (group,) = streams.references
    mask = group.mask.clone()
    mask[0] = False
    mixed = answer(backbone, backbone.cache_references(replace(streams, references=(replace(group, mask=mask),))))
    torch.testing.assert_close(mixed[0], answer(backbone, replace(streams, references=()))[0])
    torch.testing.assert_close(mixed[1], answer(backbone, streams)[1])
    gone = answer(backbone, replace(streams, references=(masked(group, value=50.0),)))
    torch.testing.assert_close(gone, answer(backbone, replace(streams, references=())))


def test_attention_over_nothing_is_never_asked_for():
    """Some kernels answer it with what is not a number, which no mask would hide."""
    mask = torch.tensor([[False, False], [True, False]])
    assert visible_references(mask).tolist() == [[True, True], [True, False]]


def test_other_references_are_not_mistaken_for_the_cached_ones(isolated):
    backbone = isolated()
    streams, other = make_streams(backbone), make_streams(backbone, seed=7)
    stale = replace(backbone.cache_references(streams), references=other.references)
    assert torch.equal(answer(backbone, stale), answer(backbone, replace(streams, references=other.references)))


def test_references_beside_another_target_are_not_mistaken(isolated):
    """They stand past the target, so their keys are others."""
    backbone = isolated()
    kept = backbone.cache_references(make_streams(backbone))
    wider = make_streams(backbone, grid=(2, 5))
    again = backbone.cache_references(wider, like=[kept])
    assert again.keys_values is not kept.keys_values
    assert torch.equal(answer(backbone, replace(kept, target_grid=(2, 5))), answer(backbone, wider))


def test_equal_references_share_one_computation(isolated):
    backbone = isolated()
    streams = make_streams(backbone)
    kept = backbone.cache_references(streams)
    again = make_streams(backbone, context=5)
    shared = backbone.cache_references(again, like=[kept])
    assert shared.keys_values is kept.keys_values
    assert torch.equal(answer(backbone, shared), answer(backbone, again))
    assert backbone.cache_references(make_streams(backbone, seed=7), like=[kept]).keys_values is not kept.keys_values


def test_additions_still_run_once_per_attention(isolated):
    backbone = isolated()
    calls = []

    def addition(site, query, output, layout):
        calls.append((site, layout.references))
        return output + query

    placement = Placement(regions=torch.ones(2, 1, 2, 3), weights=torch.ones(2, 1))
    streams = replace(make_streams(backbone), attention=(addition,), placement=placement)
    kept = backbone.cache_references(streams)
    assert calls == []
    assert kept.placement is placement
    assert torch.equal(answer(backbone, kept), answer(backbone, streams))
    assert [site for site, _ in calls] == 2 * list(range(4))
    assert {(part.start, part.stop) for _, part in calls} == {(9, 9)}


def gradients(backbone, streams):
    tokens = streams.references[0].tokens.requires_grad_(True)
    velocity(backbone, streams).square().sum().backward()
    found = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
    return {**found, "references": tokens.grad}


def test_gradients_flow_through_both_passes(isolated):
    plain = isolated(full_training=True)
    again = isolated(full_training=True, gradient_checkpointing=True)
    expected = gradients(plain, make_streams(plain))
    found = gradients(again, make_streams(again))
    assert expected["references"].any()
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_the_gradient_is_the_derivative(isolated):
    backbone = isolated().double()
    streams = make_streams(backbone)
    tokens = streams.references[0].tokens.double().requires_grad_(True)

    def loss(tokens):
        group = replace(streams.references[0], tokens=tokens)
        given = replace(streams, references=(group,))
        latents = torch.ones(2, 4, 4, 6, dtype=torch.float64)
        return backbone(latents, torch.full((2,), 0.7, dtype=torch.float64), given).square().sum()

    (gradient,) = torch.autograd.grad(loss(tokens), tokens)
    direction, step = torch.randn_like(tokens), 1e-3  # diffusers rotates in float32: smaller steps drown in rounding
    with torch.no_grad():
        slope = (loss(tokens + step * direction) - loss(tokens - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=2e-3, atol=1e-6)


def test_checkpointing_leaves_nothing_behind(isolated):
    """What the first pass recorded goes with the graph, without help of the garbage collector."""
    backbone = isolated(full_training=True, gradient_checkpointing=True)
    alive = []
    attention = backbone.transformer.single_transformer_blocks[0].attn
    attention.to_v.register_forward_hook(lambda _, __, out: alive.append(weakref.ref(out)))
    gc.disable()
    try:
        velocity(backbone, make_streams(backbone)).square().sum().backward()
        assert len(alive) == 4  # two passes, each run again
        assert not any(tensor() is not None for tensor in alive)
    finally:
        gc.enable()
