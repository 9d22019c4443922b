"""Tiny checkpoints in the hub's own layouts, written to a temporary folder and read by the code that reads real ones.

Layouts are those of OpenGVLab/InternVL3-8B-hf, Qwen/Qwen2.5-VL-7B-Instruct and black-forest-labs/FLUX.1-dev, as
transformers 4 wrote them: sharded weights with an index under their old names, configs with ``torch_dtype`` and
``rope_scaling``, Qwen's flat config and its template in ``chat_template.json``, tokenizers of the real classes with
``added_tokens.json`` and the like, CLIP's without ``tokenizer.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from subjectgen.core import Reference, Sample

WORDS = "a red toy on the beach user assistant system Picture be brief You are helpful"
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TILES = ("<img>", "</img>", "<IMG_CONTEXT>")
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

INTERNVL_CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LANGUAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 400,
    "initializer_range": 0.2,
}
SHARD = "50KB"
"""Small enough that every language model is cut into several shards."""
STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def write_qwen_tokenizer(folder: Path, control: Sequence[str], **more: Any) -> Callable[[str], int]:
    """Byte-level BPE with one token per known word, in the files of Qwen2's tokenizer; gives the ids of tokens."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    learned.train_from_iterator([spelling for word in WORDS.split() for spelling in (word, f" {word}")], trainer)
    model = json.loads(learned.to_str())["model"]
    added = {token: len(model["vocab"]) + index for index, token in enumerate(control)}
    write_json(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    write_json(folder / "added_tokens.json", added)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": list(control[1:])}
    write_json(folder / "special_tokens_map.json", names)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(number): {"content": token, **flags} for token, number in added.items()},
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 8192,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_json(folder / "tokenizer_config.json", {**settings, **names, **more})
    Qwen2Tokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    return added.__getitem__


@pytest.fixture(scope="session")
def internvl3_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InternVL3 with 32-px tiles of 16 tokens."""
    folder = tmp_path_factory.mktemp("internvl3")
    names = dict(zip(("start_image_token", "end_image_token", "context_image_token"), TILES, strict=True))
    processor = {"processor_class": "InternVLProcessor"}
    ids = write_qwen_tokenizer(folder, (*CHAT, *TILES), extra_special_tokens=names, **names, **processor)
    (folder / "chat_template.jinja").write_text(INTERNVL_CHAT)
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": [32, 32],
        "patch_size": [4, 4],
        "attention_bias": True,
    }
    text = {"model_type": "qwen2", "bos_token_id": ids(CHAT[0]), "eos_token_id": ids(CHAT[2]), **LANGUAGE}
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    InternVLForConditionalGeneration(config).save_pretrained(folder, max_shard_size=SHARD)
    saved = as_transformers_4_wrote_it(folder / "config.json")
    saved["text_config"]["rope_scaling"] = {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}
    write_json(folder / "config.json", saved)
    images = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "size": {"height": 32, "width": 32},
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        **STATISTICS,
    }
    write_json(folder / "preprocessor_config.json", {**images, **processor})
    write_json(folder / "processor_config.json", {"image_seq_length": 16, **processor})
    return folder


@pytest.fixture(scope="session")
def qwen_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2.5-VL with 8-px tokens."""
    folder = tmp_path_factory.mktemp("qwen2_5_vl")
    ids = write_qwen_tokenizer(folder, (*CHAT, *VISION), chat_template=QWEN_CHAT)
    write_json(folder / "chat_template.json", {"chat_template": QWEN_CHAT})
    for name in ("added_tokens.json", "special_tokens_map.json"):
        (folder / name).unlink()
    vision = {
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
        "intermediate_size": 32,
        "out_hidden_size": LANGUAGE["hidden_size"],
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    names = ("vision_start", "vision_end", "image", "video")
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 100.0}
    config = Qwen2_5_VLConfig(
        vision_config={**vision, "initializer_range": 0.2},
        text_config={"rope_parameters": rope, **LANGUAGE},
        **{f"{n}_token_id": ids(t) for n, t in zip(names, VISION, strict=True)},
    )
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder, max_shard_size=SHARD)
    saved = as_transformers_4_wrote_it(folder / "config.json")
    text = saved.pop("text_config")
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    saved["vision_config"] = {**vision, "hidden_act": "silu", "in_chans": 3, "spatial_patch_size": 4}
    write_json(folder / "config.json", {**text, **saved})
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": 4,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 64,
        "max_pixels": 8192,
        **STATISTICS,
    }
    write_json(folder / "preprocessor_config.json", images)
    return folder


def as_transformers_4_wrote_it(file: Path) -> dict[str, Any]:
    """Content of a ``config.json`` under its old names."""
    config = json.loads(file.read_text())
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        part.pop("layer_types", None)
        dtype, rope = part.pop("dtype", None), part.pop("rope_parameters", None)
        part.update({"torch_dtype": dtype} if dtype else {}, **({"rope_theta": rope["rope_theta"]} if rope else {}))
    return {**config, "transformers_version": "4.52.0"}


@pytest.fixture(scope="session")
def pipeline_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.1's layout: ``vae``, ``text_encoder``, ``text_encoder_2`` and their tokenizers."""
    folder = tmp_path_factory.mktemp("flux")
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")
    write_clip(folder)
    t5 = T5Config(
        vocab_size=160,
        d_model=20,
        d_kv=5,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.1,
        feed_forward_proj="gated-gelu",
    )
    T5EncoderModel(t5).save_pretrained(folder / "text_encoder_2", max_shard_size="5KB")
    write_json(folder / "text_encoder_2/config.json", as_transformers_4_wrote_it(folder / "text_encoder_2/config.json"))
    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")] + [
        (f"\u2581{word}", -1.0) for word in WORDS.split()
    ]
    T5Tokenizer(vocab=pieces).save_pretrained(folder / "tokenizer_2")
    extra = [f"<extra_id_{number}>" for number in range(100)]
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "additional_special_tokens": extra}
    settings = {"extra_ids": 100, "legacy": True, "model_max_length": 512, "tokenizer_class": "T5Tokenizer"}
    write_json(folder / "tokenizer_2/special_tokens_map.json", names)
    write_json(folder / "tokenizer_2/tokenizer_config.json", {**settings, **names})
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", {"_class_name": "FluxPipeline", "_diffusers_version": "0.30.0", **parts})
    return folder


def write_clip(folder: Path) -> None:
    """CLIP's text model under its old weight names and old ``eos_token_id``; a tokenizer of vocabulary and merges."""
    letters = sorted({*WORDS.lower()} - {" "})
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "to", "toy</w>", start, end]
    settings = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    (folder / "tokenizer").mkdir()
    write_json(folder / "tokenizer/vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\nt o\nto y</w>\n")
    write_json(folder / "tokenizer/special_tokens_map.json", settings)
    more = {"do_lower_case": True, "errors": "replace", "model_max_length": 16, "tokenizer_class": "CLIPTokenizer"}
    write_json(folder / "tokenizer/tokenizer_config.json", {**settings, **more})
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    write_json(folder / "text_encoder/config.json", as_transformers_4_wrote_it(folder / "text_encoder/config.json"))
    weights = folder / "text_encoder/model.safetensors"
    old = {f"text_model.{name}": value for name, value in load_file(weights).items()}
    save_file(old, weights, metadata={"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="session")
def sample() -> Callable[..., Sample]:
    """A sample with references of the given heights and widths, in smooth colours."""

    def make(prompt: str, *sizes: tuple[int, int], seed: int = 0) -> Sample:
        generator = torch.Generator().manual_seed(seed)
        coarse = (torch.rand(1, 3, 4, 4, generator=generator) for _ in sizes)
        images = (
            torch.nn.functional.interpolate(c, size=s, mode="bilinear")[0] for c, s in zip(coarse, sizes, strict=True)
        )
        return Sample(prompt=prompt, references=tuple(Reference(image=image) for image in images))

    return make
