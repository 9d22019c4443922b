"""FLUX's text path against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from subjectgen.core import Sample
from subjectgen.encoders.flux_text import FluxText

PROMPTS = ["a red toy on the beach", "toy", ""]


def build(checkpoint: Path, **options: object) -> FluxText:
    return FluxText(FluxText.Config(checkpoint=str(checkpoint), **options))


def encode(encoder: FluxText, *prompts: str) -> object:
    return encoder.encode([Sample(prompt=prompt) for prompt in prompts])


@pytest.fixture(scope="module")
def pipeline(pipeline_checkpoint: Path) -> FluxPipeline:
    return FluxPipeline(
        scheduler=None,
        vae=None,
        transformer=None,
        text_encoder=CLIPTextModel.from_pretrained(pipeline_checkpoint / "text_encoder").eval(),
        tokenizer=AutoTokenizer.from_pretrained(pipeline_checkpoint / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(pipeline_checkpoint / "text_encoder_2").eval(),
        tokenizer_2=AutoTokenizer.from_pretrained(pipeline_checkpoint / "tokenizer_2"),
    )


@torch.no_grad()
def test_attending_to_padding_is_what_diffusers_does(pipeline: FluxPipeline, pipeline_checkpoint: Path) -> None:
    pipeline.tokenizer_max_length = 16
    tokens, pooled, _ = pipeline.encode_prompt(PROMPTS, None, max_sequence_length=12)
    found = encode(build(pipeline_checkpoint, attend_padding=True, max_length=12), *PROMPTS)
    torch.testing.assert_close(found.tokens, tokens)
    torch.testing.assert_close(found.pooled, pooled)
    assert found.mask.all()


@torch.no_grad()
def test_masked_tokens_are_t5s_for_the_prompt_alone(pipeline: FluxPipeline, pipeline_checkpoint: Path) -> None:
    found = encode(build(pipeline_checkpoint), *PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        ids = pipeline.tokenizer_2(prompt, return_tensors="pt").input_ids
        expected = pipeline.text_encoder_2(ids).last_hidden_state[0]
        torch.testing.assert_close(found.tokens[row][found.mask[row]], expected, atol=1e-5, rtol=1e-5)
    assert not found.tokens[~found.mask].any()


def test_tokens_are_those_of_clips_and_t5s_own_tokenizers(pipeline_checkpoint: Path) -> None:
    encoder = build(pipeline_checkpoint)
    ids = encoder.prepared([Sample(prompt="red toy")])
    clip = encoder.clip.tokenizer.convert_ids_to_tokens(ids["clip_token_ids"][0].tolist())
    assert clip == ["<|startoftext|>", "r", "e", "d</w>", "toy</w>", "<|endoftext|>"]
    t5 = encoder.tokenizer.convert_ids_to_tokens(ids["t5_token_ids"][0].tolist())
    assert t5 == ["\u2581red", "\u2581toy", "</s>"]
    long = encoder.prepared([Sample(prompt="a red toy " * 300)])
    assert [ids.shape[1] for ids in long.values()] == [16, encoder.config.max_length]


def test_long_prompts_are_cut(pipeline_checkpoint: Path) -> None:
    long = " ".join(["a red toy"] * 40)
    found = encode(build(pipeline_checkpoint, max_length=7), long)
    assert found.tokens.shape[1] == 7


def test_pooled_alone_loads_no_t5(pipeline_checkpoint: Path) -> None:
    encoder = build(pipeline_checkpoint, output="pooled")
    found, everything = encode(encoder, *PROMPTS), encode(build(pipeline_checkpoint), *PROMPTS)
    assert found.tokens.shape == (len(PROMPTS), 0, encoder.width)
    assert found.mask.shape == (len(PROMPTS), 0)
    torch.testing.assert_close(found.pooled, everything.pooled)
    weights = sum(p.numel() for p in encoder.parameters())
    assert weights == sum(p.numel() for p in encoder.clip.parameters())
