"""Adapters that other trainers wrote: as plain diffusers loads them, or refused with what they are."""

import json
import re

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from subjectgen.backbones.lora import TARGETS
from subjectgen.core import CheckpointError
from subjectgen.testing.backbone import make_streams, velocity

WIDTH, RANK = 32, 2
ALL = "attention_and_proj_out"


def answer(backbone):
    with torch.no_grad():
        return velocity(backbone, make_streams(backbone))


def random(*shape, seed):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uno_file():
    """As UNO's ``dit_lora.safetensors``: q, k and v of a block share a down projection."""
    double = {f"double_blocks.0.processor.{n}": o for n, o in (("qkv_lora1", 3), ("qkv_lora2", 3))}
    double |= {f"double_blocks.0.processor.{n}": 1 for n in ("proj_lora1", "proj_lora2")}
    outputs = double | {"single_blocks.0.processor.qkv_lora": 3, "single_blocks.0.processor.proj_lora": 1}
    inputs = dict.fromkeys(outputs, WIDTH) | {"single_blocks.0.processor.proj_lora": 5 * WIDTH}
    tensors = {}
    for seed, (name, times) in enumerate(outputs.items()):
        tensors[f"{name}.down.weight"] = random(RANK, inputs[name], seed=seed)
        tensors[f"{name}.up.weight"] = random(times * WIDTH, RANK, seed=100 + seed)
    return tensors


def trained(build, **lora):
    backbone = build(lora={"rank": RANK, **lora})
    for seed, parameter in enumerate(backbone.trainable_parameters().values()):
        parameter.data = random(*parameter.shape, seed=seed)
    return backbone


def plain_adapter(build, folder, name):
    """What plain diffusers' pipeline makes of a file, by the names of ours."""
    ours = build().transformer
    transformer = FluxTransformer2DModel.from_config(ours.config)
    transformer.load_state_dict(ours.state_dict())
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), transformer=transformer, **parts)
    pipeline.load_lora_weights(folder, weight_name=name)
    scales = {module.scaling["default_0"] for module in transformer.modules() if hasattr(module, "scaling")}
    named = transformer.named_parameters()
    return {"transformer." + n.replace(".default_0.", "."): p for n, p in named if ".lora_" in n}, scales


def assert_as_diffusers(backbone, build, folder, name):
    expected, scales = plain_adapter(build, folder, name)
    found = backbone.trainable_parameters()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert scales == {backbone.config.lora.effective_alpha / backbone.config.lora.rank}


@pytest.mark.parametrize("name", ["dit_lora.safetensors", "lora.safetensors"])
def test_unos_file_is_what_diffusers_makes_of_it(build, tmp_path, name):
    save_file(uno_file(), tmp_path / name)
    backbone = build(lora={"rank": RANK, "targets": ALL})
    untrained = answer(backbone)
    backbone.load_trained(tmp_path)
    assert_as_diffusers(backbone, build, tmp_path, name)
    assert not torch.allclose(answer(backbone), untrained)
    with pytest.raises(CheckpointError, match=r"x-flux \(also UNO\).*match no adapted module.*lora\.targets"):
        build(lora={"rank": RANK}).load_trained(tmp_path)


def test_a_file_of_diffusers_own_save_is_read(build, tmp_path):
    """``save_lora_adapter`` of a transformer alone: names without prefix, every field of peft's in the header."""
    plain = FluxTransformer2DModel.from_config(build().transformer.config)
    plain.add_adapter(LoraConfig(r=RANK, lora_alpha=3, target_modules=TARGETS[ALL], init_lora_weights=False))
    plain.save_lora_adapter(tmp_path, weight_name="lora.safetensors")
    backbone = build(lora={"rank": RANK, "alpha": 3, "targets": ALL})
    backbone.load_trained(tmp_path)
    for name, value in load_file(tmp_path / "lora.safetensors").items():
        assert torch.equal(backbone.trainable_parameters()["transformer." + name], value)
    with pytest.raises(CheckpointError, match=r"made with alpha 3; lora\.alpha is 2"):
        build(lora={"rank": RANK, "targets": ALL}).load_trained(tmp_path)


@pytest.mark.parametrize("prefix", ["base_model.model.", "base_model.model.transformer."])
def test_pefts_own_names_and_config_are_read(build, tmp_path, prefix):
    backbone = trained(build, alpha=3.0)
    tensors = {prefix + n.removeprefix("transformer."): p.detach() for n, p in backbone.trainable_parameters().items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 3, "peft_type": "LORA"}))
    other = build(lora={"rank": RANK, "alpha": 3.0})
    other.load_trained(tmp_path)
    assert torch.equal(answer(other), answer(backbone))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 3, "use_rslora": True}))
    with pytest.raises(CheckpointError, match="use_rslora: True"):
        other.load_trained(tmp_path)


def test_alphas_beside_the_tensors_are_heeded(build, tmp_path):
    backbone = trained(build, alpha=3.0)
    tensors = {name: p.detach() for name, p in backbone.trainable_parameters().items()}
    alphas = {re.sub(r"\.lora_A\.weight$", ".alpha", n): torch.tensor(3.0) for n in tensors if ".lora_A." in n}
    save_file(tensors | alphas, tmp_path / "lora.safetensors")
    other = build(lora={"rank": RANK, "alpha": 3.0})
    other.load_trained(tmp_path)
    assert torch.equal(answer(other), answer(backbone))
    with pytest.raises(CheckpointError, match="made with alpha 3"):
        build(lora={"rank": RANK}).load_trained(tmp_path)
    alphas[min(alphas)] = torch.tensor(5.0)
    save_file(tensors | alphas, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"alpha differs between modules: \[3\.0, 5\.0\]"):
        other.load_trained(tmp_path)


def with_header(folder, **fields):
    """Our file with further fields in its header."""
    path = folder / "lora.safetensors"
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["lora_adapter_metadata"])
    header |= {f"transformer.{name}": value for name, value in fields.items()}
    save_file(load_file(path), path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(header)})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_rslora", True),
        ("use_dora", True),
        ("alpha_pattern", {"to_q": 8}),
        ("rank_pattern", {"to_q": 1}),
        ("fan_in_fan_out", True),
        ("bias", "all"),
        ("init_lora_weights", "pissa"),
        ("scale_of_next_year", 0.5),
    ],
)
def test_fields_that_change_numbers_are_refused_by_name(build, tmp_path, field, value):
    trained(build).save_trained(tmp_path)
    with_header(tmp_path, **{field: value})
    with pytest.raises(CheckpointError, match=f"header says {field}: .*changes numbers"):
        build(lora={"rank": RANK}).load_trained(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_rslora", False),
        ("alpha_pattern", {}),
        ("alpha_pattern", {"to_q": 2.0}),
        ("rank_pattern", {"to_q": 2}),
        ("init_lora_weights", "gaussian"),
        ("lora_dropout", 0.3),
        ("scale_of_next_year", None),
    ],
)
def test_fields_that_change_nothing_are_let_be(build, tmp_path, field, value):
    backbone = trained(build)
    backbone.save_trained(tmp_path)
    with_header(tmp_path, **{field: value})
    other = build(lora={"rank": RANK})
    other.load_trained(tmp_path)
    assert torch.equal(answer(other), answer(backbone))


KOHYA = "lora_unet_double_blocks_0_img_attn_qkv"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{KOHYA}.lora_down.weight": (RANK, WIDTH), f"{KOHYA}.lora_up.weight": (3 * WIDTH, RANK)}, "kohya-ss"),
        ({"lora_unet_x.lokr_w1": (2, 2)}, "LyCORIS LoKr, not a plain LoRA"),
        ({"lora_unet_x.hada_w1_a": (2, 2)}, "LyCORIS LoHa, not a plain LoRA"),
        ({"transformer.x.lora_A.weight": (2, 2), "transformer.x.dora_scale": (2,)}, "DoRA, not a plain LoRA"),
        ({"lora_unet_unknown.lora_down.weight": (2, 2)}, "kohya-ss"),
        ({"whatever": (2, 2)}, "layout of unknown"),
    ],
)
def test_what_cannot_be_read_says_what_it_is(build, tmp_path, tensors, message):
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "lora.safetensors")
    backbone = trained(build)
    before = answer(backbone)
    with pytest.raises(CheckpointError, match=message):
        backbone.load_trained(tmp_path)
    assert torch.equal(answer(backbone), before)


def test_ours_comes_before_others(build, tmp_path):
    backbone = trained(build)
    backbone.save_trained(tmp_path)
    save_file(uno_file(), tmp_path / "dit_lora.safetensors")
    other = build(lora={"rank": RANK})
    other.load_trained(tmp_path)
    assert torch.equal(answer(other), answer(backbone))
