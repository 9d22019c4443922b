"""One safetensors file in the authors' layout, written from the layout's names."""

import logging

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import save_file

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.backbones.single_file import WIDTH, architecture
from subjectgen.core import CheckpointError

FULL_WIDTH = {
    "in_channels": 16,
    "attention_head_dim": 128,
    "num_attention_heads": WIDTH // 128,
    "axes_dims_rope": (16, 56, 56),
    "guidance_embeds": True,
}


def swapped(tensor):
    """The last modulation: shift and scale there, scale and shift in diffusers."""
    scale, shift = tensor.chunk(2)
    return torch.cat((shift, scale))


def linear(ours, theirs, tensors):
    return {f"{theirs}.{kind}": tensors[f"{ours}.{kind}"] for kind in ("weight", "bias")}


def fused(names, theirs, tensors):
    return {f"{theirs}.{kind}": torch.cat([tensors[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias")}


def embeddings(tensors):
    names = {"timestep_embedder": "time_in", "guidance_embedder": "guidance_in", "text_embedder": "vector_in"}
    result = {}
    for ours, theirs in names.items():
        if f"time_text_embed.{ours}.linear_1.weight" in tensors:
            result |= linear(f"time_text_embed.{ours}.linear_1", f"{theirs}.in_layer", tensors)
            result |= linear(f"time_text_embed.{ours}.linear_2", f"{theirs}.out_layer", tensors)
    result |= linear("x_embedder", "img_in", tensors) | linear("context_embedder", "txt_in", tensors)
    last = linear("norm_out.linear", "final_layer.adaLN_modulation.1", tensors)
    return (
        result
        | {name: swapped(value) for name, value in last.items()}
        | linear("proj_out", "final_layer.linear", tensors)
    )


def double_block(index, tensors):
    ours, theirs, result = f"transformer_blocks.{index}", f"double_blocks.{index}", {}
    streams = {
        "img": ("norm1", ("to_q", "to_k", "to_v"), "to_out.0", ("norm_q", "norm_k"), "ff"),
        "txt": (
            "norm1_context",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
            "to_add_out",
            ("norm_added_q", "norm_added_k"),
            "ff_context",
        ),
    }
    for stream, (norm, projections, out, norms, feed_forward) in streams.items():
        result |= linear(f"{ours}.{norm}.linear", f"{theirs}.{stream}_mod.lin", tensors)
        result |= fused([f"{ours}.attn.{name}" for name in projections], f"{theirs}.{stream}_attn.qkv", tensors)
        result |= linear(f"{ours}.attn.{out}", f"{theirs}.{stream}_attn.proj", tensors)
        result |= linear(f"{ours}.{feed_forward}.net.0.proj", f"{theirs}.{stream}_mlp.0", tensors)
        result |= linear(f"{ours}.{feed_forward}.net.2", f"{theirs}.{stream}_mlp.2", tensors)
        for mine, name in zip(norms, ("query_norm", "key_norm"), strict=True):
            result[f"{theirs}.{stream}_attn.norm.{name}.scale"] = tensors[f"{ours}.attn.{mine}.weight"]
    return result


def single_block(index, tensors):
    ours, theirs = f"single_transformer_blocks.{index}", f"single_blocks.{index}"
    parts = [f"{ours}.attn.to_q", f"{ours}.attn.to_k", f"{ours}.attn.to_v", f"{ours}.proj_mlp"]
    return {
        **linear(f"{ours}.norm.linear", f"{theirs}.modulation.lin", tensors),
        **fused(parts, f"{theirs}.linear1", tensors),
        **linear(f"{ours}.proj_out", f"{theirs}.linear2", tensors),
        f"{theirs}.norm.query_norm.scale": tensors[f"{ours}.attn.norm_q.weight"],
        f"{theirs}.norm.key_norm.scale": tensors[f"{ours}.attn.norm_k.weight"],
    }


def original(transformer):
    """All weights under the authors' names."""
    tensors = transformer.state_dict()
    result = embeddings(tensors)
    for index in range(len(transformer.transformer_blocks)):
        result |= double_block(index, tensors)
    for index in range(len(transformer.single_transformer_blocks)):
        result |= single_block(index, tensors)
    return {name: value.contiguous() for name, value in result.items()}


def full_width(build):
    """One block of each kind at true width, for diffusers converts no other: 0.5 billion weights.

    No two rows or columns are alike. Each weight is the sum of its row's and its column's number, made at once.
    """
    with torch.device("meta"):
        transformer = build(sizes=FULL_WIDTH, dtype="bfloat16").transformer
    generator = torch.Generator().manual_seed(0)
    for parameter in transformer.to_empty(device="cpu").parameters():
        row = torch.randn(parameter.shape[0], generator=generator).bfloat16()
        columns = torch.randn(parameter.shape[1:], generator=generator).bfloat16()
        parameter.data = row.view(-1, *[1] * columns.dim()) + columns
    return transformer


@pytest.fixture
def said():
    """What diffusers logs; it would print it."""
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    diffusers_logging.add_handler(handler)
    yield heard
    diffusers_logging.remove_handler(handler)


@pytest.mark.slow
def test_every_weight_finds_its_place(build, tmp_path, said):
    transformer = full_width(build)
    file = tmp_path / "flux1.safetensors"
    save_file(original(transformer), file)
    loaded = FluxBackbone(FluxBackbone.Config(checkpoint=str(file), dtype="bfloat16"))
    assert said == []
    assert loaded.guidance_embedded
    assert tuple(loaded.transformer.config.axes_dims_rope) == FULL_WIDTH["axes_dims_rope"]
    expected, found = transformer.state_dict(), loaded.transformer.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(CheckpointError, match=r"tensor 'single_blocks\.0\.linear2\.bias' is missing"):
        damaged(file, "single_blocks.0.linear2.bias")


def damaged(file, name):
    """Load the file with one name in its header changed to another of the same length."""
    with file.open("r+b") as opened:
        opened.seek(opened.read(2**16).index(name.encode()))
        opened.write(name[:-1].encode() + b"?")
    return FluxBackbone(FluxBackbone.Config(checkpoint=str(file), dtype="bfloat16"))


@pytest.fixture
def tiny(build):
    return original(build(sizes={"num_layers": 2, "num_single_layers": 3, "guidance_embeds": True}).transformer)


def refused(file, tensors, message):
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=message):
        FluxBackbone(FluxBackbone.Config(checkpoint=str(file)))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_sizes_are_read_from_the_header(tiny, tmp_path, prefix):
    """Shapes of true width without their content: only the header counts. Some files have a prefix."""
    names = {"img_in.weight": (WIDTH, 16), "double_blocks.0.img_attn.norm.query_norm.scale": (128,)}
    shapes = {name: names.get(name, value.shape) for name, value in tiny.items()}
    wide = {prefix + name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(wide, tmp_path / "flux.safetensors")
    sizes = architecture(tmp_path / "flux.safetensors")
    assert (sizes["num_layers"], sizes["num_single_layers"], sizes["guidance_embeds"]) == (2, 3, True)
    assert (sizes["in_channels"], sizes["joint_attention_dim"], sizes["pooled_projection_dim"]) == (16, 24, 12)
    assert sizes["out_channels"] == 16
    assert sizes["num_attention_heads"] == 24


def test_a_width_that_diffusers_cannot_convert_is_refused(tiny, tmp_path):
    refused(
        tmp_path / "a.safetensors", tiny, "width 32 with heads of 16; diffusers converts single files of width 3072"
    )


def test_another_model_is_refused(tiny, tmp_path):
    refused(tmp_path / "a.safetensors", {"conv_in.weight": torch.zeros(4, 4)}, "no FLUX.1 transformer")
    lost = {name: value for name, value in tiny.items() if name != "txt_in.weight"}
    lost["img_in.weight"] = torch.zeros(WIDTH, 16)
    lost["double_blocks.0.img_attn.norm.query_norm.scale"] = torch.zeros(128)
    refused(tmp_path / "b.safetensors", lost, "tensor 'txt_in.weight' is missing")


def test_a_file_of_a_folder_is_told_from_a_single_file(build, tmp_path):
    build().transformer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="in diffusers' format; name its folder"):
        FluxBackbone(FluxBackbone.Config(checkpoint=str(tmp_path / "diffusion_pytorch_model.safetensors")))


def test_a_truncated_file_is_refused(tiny, tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(tiny, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"a\.safetensors is truncated"):
        FluxBackbone(FluxBackbone.Config(checkpoint=str(file)))
