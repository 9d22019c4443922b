"""FLUX's text path against diffusers' own pipeline."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from subjectgen.core import InputError, Sample
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


def told(encoder: FluxText, *prompts: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encode(encoder, *prompts)
    return [str(one.message) for one in caught]


def test_what_is_cut_from_a_long_prompt_is_said(pipeline_checkpoint: Path) -> None:
    """By words, of T5 and of CLIP, whose limits differ; once per prompt."""
    encoder = build(pipeline_checkpoint, max_length=7)
    long = "a red toy on the beach toy a toy red"
    t5, clip = told(encoder, long, "toy", long)
    assert t5 == f"prompt {long!r}: T5 (max_length) reads 7 tokens of 11; not read: 'toy a toy red'"
    ids = encoder.prepared([Sample(prompt=long)])["clip_token_ids"][0]
    kept = encoder.clip.tokenizer.decode(ids[1:-1])
    assert clip.startswith(f"prompt {long!r}: CLIP reads 16 tokens of ")
    assert kept.replace(" ", "") + clip.partition("not read: ")[2].strip("'").replace(" ", "") == long.replace(" ", "")
    assert encode(encoder, *["a red toy on the beach toy"] * 2).tokens.shape[1] == 7
    assert told(build(pipeline_checkpoint), "a red toy") == []


@pytest.mark.parametrize("padded", [False, True])
def test_a_prompt_that_fits_exactly_is_not_cut(pipeline_checkpoint: Path, padded: bool) -> None:
    fits = "a toy on the"
    assert told(build(pipeline_checkpoint, max_length=5, attend_padding=padded), fits) == []
    assert len(told(build(pipeline_checkpoint, max_length=4, attend_padding=padded), fits)) == 1


def test_a_prompt_of_which_no_word_is_read_is_refused(pipeline_checkpoint: Path) -> None:
    """Not drawn as if it were empty."""
    encoder = build(pipeline_checkpoint, max_length=1)
    with pytest.raises(
        InputError, match=r"^prompt 'red toy': T5 \(max_length\) reads 1 tokens of 3, none of them of a"
    ):
        encode(encoder, "red toy")
    assert told(encoder, "") == []


def test_letters_that_a_narrow_locale_damaged_are_read(pipeline_checkpoint: Path) -> None:
    """Two lone surrogates of a command line under ``LC_ALL=C`` were a traceback of the tokenizer."""
    encoder = build(pipeline_checkpoint)
    damaged = "r\udcc3\udca9d toy"
    for mine, whole in zip(
        encoder.prepared([Sample(prompt=damaged)]).values(),
        encoder.prepared([Sample(prompt="r\u00e9d toy")]).values(),
        strict=True,
    ):
        assert torch.equal(mine, whole)
    with pytest.raises(InputError, match=r"^prompt: .* is no valid Unicode at character 1"):
        encode(encoder, "\ud83e toy")


def test_pooled_alone_loads_no_t5(pipeline_checkpoint: Path) -> None:
    encoder = build(pipeline_checkpoint, output="pooled")
    found, everything = encode(encoder, *PROMPTS), encode(build(pipeline_checkpoint), *PROMPTS)
    assert found.tokens.shape == (len(PROMPTS), 0, encoder.width)
    assert found.mask.shape == (len(PROMPTS), 0)
    torch.testing.assert_close(found.pooled, everything.pooled)
    weights = sum(p.numel() for p in encoder.parameters())
    assert weights == sum(p.numel() for p in encoder.clip.parameters())
