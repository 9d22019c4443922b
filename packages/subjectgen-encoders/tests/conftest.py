"""Tiny checkpoints in the hub's layout, written to a temporary folder and read by the code that reads the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from subjectgen.core import Reference, Sample

WORDS = (
    "a",
    "red",
    "toy",
    "on",
    "the",
    "beach",
    "user",
    "assistant",
    "system",
    "Picture",
    "1",
    "2",
    ":",
    "be",
    "brief",
)
CONTROL = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}IMAGE"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INTERNVL_CHAT = CHAT.replace("IMAGE", "<IMG_CONTEXT>\n")
QWEN_CHAT = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")

LANGUAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}


def word_tokenizer(*control: str, chat_template: str | None = None, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word and the given control tokens."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[BOS]", "[EOS]", "[UNK]", *control, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        additional_special_tokens=list(control),
        **special,
    )
    wrapped.chat_template = chat_template
    return wrapped


def ending_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of a text encoder: every prompt ends in ``[EOS]``."""
    tokenizer = word_tokenizer(eos_token="[EOS]")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", 2)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def internvl3_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InternVL3 with 32-px tiles of 16 tokens."""
    folder = tmp_path_factory.mktemp("internvl3")
    tokenizer = word_tokenizer(*CONTROL, chat_template=INTERNVL_CHAT)
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": [32, 32],
        "patch_size": [4, 4],
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config={"model_type": "qwen2", **LANGUAGE},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
    )
    torch.manual_seed(0)
    InternVLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", {"size": {"height": 32, "width": 32}, **STATISTICS})
    return folder


@pytest.fixture(scope="session")
def qwen_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2.5-VL with 8-px tokens."""
    folder = tmp_path_factory.mktemp("qwen2_5_vl")
    tokenizer = word_tokenizer(*VISION, *CONTROL[:2], chat_template=QWEN_CHAT)
    vision = {
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
        "intermediate_size": 32,
        "out_hidden_size": LANGUAGE["hidden_size"],
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.2,
    }
    names = ("vision_start", "vision_end", "image", "video")
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 100.0}
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={"rope_parameters": rope, **LANGUAGE},
        **{f"{n}_token_id": tokenizer.convert_tokens_to_ids(t) for n, t in zip(names, VISION, strict=True)},
    )
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patches = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 64, "max_pixels": 8192}
    write_json(folder / "preprocessor_config.json", {**patches, **STATISTICS})
    return folder


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
    ).save_pretrained(folder / "vae")
    clip = CLIPTextConfig(
        vocab_size=64,
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    CLIPTextModel(clip).save_pretrained(folder / "text_encoder")
    t5 = T5Config(vocab_size=64, d_model=20, d_kv=5, d_ff=24, num_layers=2, num_heads=4, dropout_rate=0.1)
    T5EncoderModel(t5).save_pretrained(folder / "text_encoder_2")
    for name in ("tokenizer", "tokenizer_2"):
        ending_tokenizer().save_pretrained(folder / name)
    return folder


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
