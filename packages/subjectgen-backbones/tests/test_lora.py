import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from subjectgen.backbones.lora import target_modules
from subjectgen.core import CheckpointError, ComponentError, StepConditions, Streams
from subjectgen.testing.backbone import make_streams, token_group, velocity

DOUBLE = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
SINGLE = ["to_q", "to_k", "to_v"]


def trained(build, std=0.1, **lora):
    """A backbone whose adapter does something."""
    backbone = build(lora={"rank": 2, **lora})
    generator = torch.Generator().manual_seed(3)
    for parameter in backbone.trainable_parameters().values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * std
    return backbone


def answer(backbone):
    with torch.no_grad():
        return velocity(backbone, make_streams(backbone))


@pytest.mark.parametrize(("targets", "single_out"), [("attention", []), ("attention_and_proj_out", ["proj_out"])])
def test_adapted_modules_are_the_listed_ones(build, targets, single_out):
    backbone = build(sizes={"num_layers": 2, "num_single_layers": 2}, lora={"rank": 2, "targets": targets})
    expected = {f"transformer_blocks.{i}.attn.{name}" for i in range(2) for name in DOUBLE}
    expected |= {f"single_transformer_blocks.{i}.attn.{name}" for i in range(2) for name in SINGLE}
    expected |= {f"single_transformer_blocks.{i}.{name}" for i in range(2) for name in single_out}
    adapted = {name for name, module in backbone.transformer.named_modules() if hasattr(module, "lora_A")}
    assert adapted == expected
    assert set(target_modules(build(sizes={"num_layers": 2, "num_single_layers": 2}).transformer, targets)) == expected


def test_a_fresh_adapter_changes_nothing(build):
    assert torch.equal(answer(build(lora={"rank": 2})), answer(build()))


def test_only_the_adapter_is_trained(build):
    backbone = trained(build)
    velocity(backbone, make_streams(backbone)).square().sum().backward()
    names = {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert names == {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert len(names) == len(backbone.trainable_parameters()) == 2 * (len(DOUBLE) + len(SINGLE))
    assert all(p.grad.any() for p in backbone.trainable_parameters().values())


@pytest.mark.parametrize("alpha", [None, 1.0, 8.0])
def test_the_update_is_alpha_over_rank_times_b_a(build, alpha):
    backbone, plain = trained(build, alpha=alpha), build()
    layer = backbone.transformer.transformer_blocks[0].attn.to_q
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scale = (2 if alpha is None else alpha) / 2
    x = torch.randn(5, a.shape[1])
    expected = plain.transformer.transformer_blocks[0].attn.to_q(x) + scale * x @ (b @ a).T
    torch.testing.assert_close(layer(x), expected)


def test_round_trip(build, tmp_path):
    backbone = trained(build, alpha=3.0)
    backbone.save_trained(tmp_path)
    other = build(lora={"rank": 2, "alpha": 3.0})
    other.load_trained(tmp_path)
    assert torch.equal(answer(other), answer(backbone))
    assert not torch.equal(answer(other), answer(build()))
    assert [file.name for file in tmp_path.iterdir()] == ["lora.safetensors"]


@pytest.mark.parametrize("targets", ["attention", "attention_and_proj_out"])
def test_a_plain_transformer_loads_the_file(build, tmp_path, targets):
    backbone = trained(build, alpha=3.0, targets=targets)
    backbone.save_trained(tmp_path)
    plain = build()
    plain.transformer.load_lora_adapter(tmp_path, weight_name="lora.safetensors")
    torch.testing.assert_close(answer(plain), answer(backbone))


def diffusers_pipeline(build):
    """A FluxPipeline of diffusers' own classes with the untrained weights; prompts come as embeddings."""
    ours = build().transformer
    transformer = FluxTransformer2DModel.from_config(ours.config)
    transformer.load_state_dict(ours.state_dict())
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), transformer=transformer.eval(), **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sampled_by_diffusers(pipeline, noise, tokens, pooled, steps):
    """Latents after the pipeline's own loop; packed on the way in and out, as it does."""
    packed = pipeline._pack_latents(noise, *noise.shape)
    return pipeline(
        prompt_embeds=tokens,
        pooled_prompt_embeds=pooled,
        latents=packed,
        height=8 * noise.shape[2],
        width=8 * noise.shape[3],
        num_inference_steps=steps,
        output_type="latent",
    ).images


@torch.no_grad()
def sampled_by_us(backbone, noise, tokens, pooled, steps):
    """Euler steps from t = 1 to 0."""
    streams = Streams(target_grid=(2, 3), context=(token_group(tokens),), pooled=pooled)
    latents = noise
    for k in range(steps):
        timestep = torch.full((len(noise),), 1 - k / steps)
        latents = latents - backbone(latents, timestep, streams) / steps
    return FluxPipeline._pack_latents(latents, *latents.shape)


@pytest.mark.parametrize("targets", ["attention", "attention_and_proj_out"])
@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_plain_pipeline_loads_the_file_and_samples_the_same(build, tmp_path, targets, place):
    backbone = trained(build, alpha=3.0, targets=targets)
    backbone.save_trained(tmp_path)
    pipeline = diffusers_pipeline(build)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(1, backbone.latent_channels, 4, 6, generator=generator)
    tokens = torch.randn(1, 5, backbone.context_width, generator=generator)
    pooled = torch.randn(1, backbone.pooled_width, generator=generator)
    untrained = sampled_by_diffusers(pipeline, noise, tokens, pooled, 3)
    options = {"weight_name": "lora.safetensors"} if place == "file" else {}
    pipeline.load_lora_weights(tmp_path, **options)
    found = sampled_by_diffusers(pipeline, noise, tokens, pooled, 3)
    expected = sampled_by_us(backbone, noise, tokens, pooled, 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sampled_by_us(build(), noise, tokens, pooled, 3), untrained, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, untrained, atol=1e-2)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        # (19 double blocks x 8 + 38 single x 3) projections of 3072 to 3072: A and B of 512 x 3072 each
        ("attention", (19 * 8 + 38 * 3) * 2 * 512 * 3072),
        # and 38 of 15360 to 3072
        ("attention_and_proj_out", (19 * 8 + 38 * 3) * 2 * 512 * 3072 + 38 * 512 * (15360 + 3072)),
    ],
)
def test_size_of_the_papers_adapter_on_flux(build, targets, expected):
    with torch.device("meta"):
        backbone = build(architecture={}, dtype="bfloat16", lora={"rank": 512, "targets": targets})
    adapter = backbone.trainable_parameters()
    assert sum(p.numel() for p in adapter.values()) == expected
    assert {p.dtype for p in adapter.values()} == {torch.float32}
    assert round(expected / 1e6, 1) in (836.8, 1195.4)


def test_the_header_tells_rank_alpha_and_targets(build, tmp_path):
    trained(build, alpha=3.0).save_trained(tmp_path)
    with safe_open(tmp_path / "lora.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (header["transformer.r"], header["transformer.lora_alpha"]) == (2, 3.0)
    assert header["transformer.target_modules"] == sorted(target_modules(build().transformer, "attention"))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
@pytest.mark.parametrize("settings", [{"reference_attention": "isolated"}, {"alpha": 3.0}])
def test_a_loaded_adapter_is_merged_for_generating(build, tmp_path, dtype, tolerance, settings):
    """The same velocity, with kept references and with looked-up modulation too; only rounding differs."""
    options = {"dtype": dtype} | {key: value for key, value in settings.items() if key != "alpha"}
    lora = {"rank": 2, "alpha": settings.get("alpha"), "targets": "attention_and_proj_out"}
    trained(build, std=0.5, **lora).save_trained(tmp_path)
    backbone = build(lora=lora, **options)
    backbone.load_trained(tmp_path)
    streams = make_streams(backbone)
    with torch.no_grad():
        expected, kept = velocity(backbone, streams), backbone.cache_references(streams)
        untrained = velocity(build(**options), streams)
        backbone.merge_adapter()
        found = [velocity(backbone, streams), velocity(backbone, backbone.cache_references(streams))]
        found.append(velocity(backbone.prepare([StepConditions(0.7, streams.pooled)]), streams))
    scale = float(expected.abs().max())
    for one in found:
        torch.testing.assert_close(one, expected, rtol=0, atol=tolerance * scale)
    assert (untrained - expected).abs().max() > 5 * tolerance * scale
    with torch.no_grad():
        torch.testing.assert_close(velocity(backbone, kept), expected, rtol=0, atol=tolerance * scale)


def test_merging_keeps_the_function_and_leaves_a_plain_transformer(build):
    backbone = trained(build, alpha=3.0, targets="attention_and_proj_out")
    before = answer(backbone)
    backbone.merge_adapter()
    torch.testing.assert_close(answer(backbone), before, rtol=0, atol=1e-5 * float(before.abs().max()))
    plain = build().transformer
    assert isinstance(backbone.transformer, FluxTransformer2DModel)
    assert [name for name, _ in backbone.transformer.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]
    assert backbone.trainable_parameters() == {}
    backbone.merge_adapter()
    with pytest.raises(ComponentError, match="merged"):
        backbone.save_trained("unused")


@pytest.fixture
def saved(build, tmp_path):
    trained(build).save_trained(tmp_path)
    return tmp_path / "lora.safetensors"


def rewrite(path, change):
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(change(load_file(path)), path, metadata=header)


def test_a_file_for_other_modules_is_refused(build, saved):
    rewrite(saved, lambda tensors: {"unet." + name: value for name, value in tensors.items()})
    with pytest.raises(CheckpointError, match="match no adapted module, such as unet"):
        build(lora={"rank": 2}).load_trained(saved.parent)


def test_a_file_that_misses_modules_is_refused(build, saved):
    with pytest.raises(CheckpointError, match=r"2 of 24 tensors are missing, such as .*proj_out"):
        build(lora={"rank": 2, "targets": "attention_and_proj_out"}).load_trained(saved.parent)


@pytest.mark.parametrize("alpha", [None, 2])
def test_another_rank_is_refused(build, saved, alpha):
    with pytest.raises(CheckpointError, match=r"made with rank 2; lora\.rank is 3$"):
        build(lora={"rank": 3, "alpha": alpha}).load_trained(saved.parent)


def test_another_alpha_is_refused(build, saved):
    with pytest.raises(CheckpointError, match=r"made with alpha 2.*lora\.alpha is 5"):
        build(lora={"rank": 2, "alpha": 5}).load_trained(saved.parent)


def test_a_file_without_a_header_has_diffusers_scale(build, saved):
    """There, and so here, alpha is the rank."""
    expected = answer(trained(build))
    save_file(load_file(saved), saved)
    plain = build()
    plain.transformer.load_lora_adapter(saved.parent, weight_name=saved.name)
    torch.testing.assert_close(answer(plain), expected)
    ours = build(lora={"rank": 2})
    ours.load_trained(saved.parent)
    assert torch.equal(answer(ours), expected)
    with pytest.raises(CheckpointError, match=r"made with alpha 2; lora\.alpha is 5"):
        build(lora={"rank": 2, "alpha": 5}).load_trained(saved.parent)


def test_a_refused_file_leaves_the_adapter_as_it_was(build, saved):
    rewrite(saved, lambda tensors: {n: v[:, :1].contiguous() if "lora_A" in n else v for n, v in tensors.items()})
    backbone = trained(build)
    before = answer(backbone)
    with pytest.raises(CheckpointError, match="has shape"):
        backbone.load_trained(saved.parent)
    assert torch.equal(answer(backbone), before)


def test_unreadable_files_are_refused(build, saved):
    backbone = build(lora={"rank": 2})
    saved.write_bytes(saved.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        backbone.load_trained(saved.parent)
    saved.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        backbone.load_trained(saved.parent)


def test_a_backbone_without_an_adapter_refuses_the_file(build, saved):
    with pytest.raises(CheckpointError, match=r"set backbone\.lora"):
        build().load_trained(saved.parent)
