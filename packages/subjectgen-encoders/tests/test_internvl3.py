"""InternVL3: what it gives is what transformers computes, at the tokens that are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from subjectgen.core import InputError, Modality, Sample
from subjectgen.core.images import to_pil
from subjectgen.encoders.clip_text import ClipText
from subjectgen.encoders.internvl3 import InternVL3

MakeSample = Callable[..., Sample]


@pytest.fixture
def encoder(internvl3_checkpoint: Path) -> InternVL3:
    return InternVL3(InternVL3.Config(checkpoint=str(internvl3_checkpoint), fit="stretch"))


@pytest.fixture
def reference_model(internvl3_checkpoint: Path) -> Any:
    return InternVLForConditionalGeneration.from_pretrained(internvl3_checkpoint).eval()


def processed(encoder: InternVL3, sample: Sample, folder: Path) -> dict[str, torch.Tensor]:
    """Inputs of the whole model as transformers' own processor writes them: every image token as text."""
    tokenizer = encoder.prompting.tokenizer
    image = "<img>" + "<IMG_CONTEXT>" * encoder.tokens_per_image + "</img>\n"
    text = "<|im_start|>user\n" + image * len(sample.references) + sample.prompt + "<|im_end|>\n<|im_start|>assistant\n"
    pixels = GotOcr2ImageProcessorPil.from_pretrained(folder)(
        [to_pil(reference.image) for reference in sample.references], return_tensors="pt"
    ).pixel_values
    return {**tokenizer(text, return_tensors="pt", add_special_tokens=False), "pixel_values": pixels}


def kept(encoder: InternVL3, ids: torch.Tensor, prompt: str) -> torch.Tensor:
    """Image tokens, then as many as the prompt has just before the end of the user's turn."""
    tokenizer = encoder.prompting.tokenizer
    images = (ids == tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")).nonzero().flatten()
    end = int((ids == tokenizer.convert_tokens_to_ids("<|im_end|>")).nonzero()[0])
    return torch.cat([images, torch.arange(end - len(prompt.split()), end)])


@torch.no_grad()
def test_hidden_states_are_those_of_the_whole_model(
    encoder: InternVL3, reference_model: Any, internvl3_checkpoint: Path, sample: MakeSample
) -> None:
    one = sample("a red toy", (32, 32), (32, 32))
    # The reference goes through PIL in bytes; give the encoder the same bytes.
    rounded = Sample(
        prompt=one.prompt,
        references=tuple(type(r)(image=(r.image * 255).round() / 255) for r in one.references),
    )
    inputs = processed(encoder, one, internvl3_checkpoint)
    whole = reference_model(**inputs, output_hidden_states=True)
    features = encoder.encode([rounded])
    positions = kept(encoder, inputs["input_ids"][0], one.prompt)
    assert features.depth == len(whole.hidden_states)
    for mine, theirs in zip(features.hidden_states, whole.hidden_states, strict=True):
        torch.testing.assert_close(mine[0], theirs[0, positions], atol=1e-6 * float(theirs.abs().max()), rtol=1e-6)


def test_first_hidden_state_at_image_tokens_is_the_vision_feature(encoder: InternVL3, sample: MakeSample) -> None:
    features = encoder.encode([sample("a toy", (32, 32)), sample("", (32, 32), (20, 60), seed=1)])
    image = features.modality == Modality.IMAGE
    torch.testing.assert_close(features.hidden_states[0][image], features.image_features[image], rtol=0, atol=0)
    assert features.image_features[image].std() > 0


@torch.no_grad()
def test_vision_features_are_those_after_the_projector(
    encoder: InternVL3, reference_model: Any, sample: MakeSample
) -> None:
    batch = [sample("a toy", (32, 32)), sample("red", (32, 32), (48, 24), seed=1)]
    images = encoder.prepare_images([r.image for s in batch for r in s.references])
    expected = reference_model.get_image_features(**images.inputs).pooler_output
    features = encoder.encode(batch)
    found = features.image_features[features.modality == Modality.IMAGE]
    torch.testing.assert_close(found, expected.flatten(0, 1), atol=1e-6, rtol=1e-6)


def test_tokens_follow_the_references_and_carry_their_index(encoder: InternVL3, sample: MakeSample) -> None:
    features = encoder.encode([sample("a red toy", (32, 32), (9, 90)), sample("toy"), sample("", (500, 3))])
    n = encoder.tokens_per_image
    assert features.reference.tolist() == [
        [0] * n + [1] * n + [-1] * 3,
        [-1] * (2 * n + 3),
        [0] * n + [-1] * (n + 3),
    ]
    text, image, padding = int(Modality.TEXT), int(Modality.IMAGE), int(Modality.PADDING)
    assert features.modality.tolist() == [
        [image] * 2 * n + [text] * 3,
        [text] + [padding] * (2 * n + 2),
        [image] * n + [padding] * (n + 3),
    ]
    assert not features.hidden_states[-1][features.modality == padding].any()


def test_nothing_to_see_gives_zero_tokens(encoder: InternVL3) -> None:
    features = encoder.encode([Sample(), Sample()])
    assert [tuple(state.shape) for state in features.hidden_states] == [(2, 0, encoder.width)] * encoder.depth


def test_raw_last_layer_lacks_only_the_final_norm(internvl3_checkpoint: Path, sample: MakeSample) -> None:
    config = InternVL3.Config(checkpoint=str(internvl3_checkpoint))
    raw = InternVL3(config.model_copy(update={"raw_last_layer": True}))
    one = [sample("a red toy", (32, 32))]
    expected, features = InternVL3(config).encode(one), raw.encode(one)
    assert expected.last_layer_normalized
    assert not features.last_layer_normalized
    norm = raw.model.language_model.norm
    torch.testing.assert_close(norm(features.hidden_states[-1]), expected.hidden_states[-1])
    assert not torch.allclose(features.hidden_states[-1], expected.hidden_states[-1], atol=1e-2)


def test_kept_template_tokens_are_text_around_the_same_features(internvl3_checkpoint: Path, sample: MakeSample) -> None:
    config = InternVL3.Config(checkpoint=str(internvl3_checkpoint))
    everything = InternVL3(config.model_copy(update={"keep_template_tokens": True}))
    one = sample("a red toy", (32, 32))
    features, all_features = InternVL3(config).encode([one]), everything.encode([one])
    image = all_features.modality[0] == Modality.IMAGE
    first = int(image.nonzero()[0])
    names = everything.prompting.tokenizer.convert_ids_to_tokens(
        everything.prompting.row(one.prompt, [everything.tokens_per_image]).ids
    )
    newline = "\u010a"  # as byte-level tokenizers write it
    assert names[:first] == ["<|im_start|>", "user", newline, "<img>"]
    assert names[-8:] == ["a", "\u0120red", "\u0120toy", "<|im_end|>", newline, "<|im_start|>", "assistant", newline]
    torch.testing.assert_close(all_features.hidden_states[2][0][image], features.hidden_states[2][0][: image.sum()])


def test_the_attention_kernel_is_the_one_asked_for(internvl3_checkpoint: Path) -> None:
    for name in ("eager", "sdpa"):
        encoder = InternVL3(InternVL3.Config(checkpoint=str(internvl3_checkpoint), attention_implementation=name))
        parts = encoder.model.language_model, encoder.model.vision_tower
        assert [part.config._attn_implementation for part in parts] == [name] * 2


def test_pooled_vector_is_clips(internvl3_checkpoint: Path, pipeline_checkpoint: Path, sample: MakeSample) -> None:
    config = InternVL3.Config(checkpoint=str(internvl3_checkpoint), clip=str(pipeline_checkpoint))
    encoder = InternVL3(config)
    assert isinstance(encoder.clip, ClipText)
    features = encoder.encode([sample("a red toy"), sample("the beach", (32, 32))])
    assert features.pooled.shape == (2, encoder.pooled_width)
    torch.testing.assert_close(features.pooled, encoder.clip.pooled(["a red toy", "the beach"]), rtol=0, atol=0)
    assert not torch.allclose(features.pooled[0], features.pooled[1])


@pytest.mark.parametrize(("asked", "saved"), [("bfloat16", "float32"), ("auto", "bfloat16")])
def test_bfloat16_weights_give_bfloat16_features(
    internvl3_checkpoint: Path, tmp_path: Path, sample: MakeSample, asked: str, saved: str
) -> None:
    folder = shutil.copytree(internvl3_checkpoint, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": saved}))
    encoder = InternVL3(InternVL3.Config(checkpoint=str(folder), dtype=asked))
    features = encoder.encode([sample("a red toy", (32, 32))])
    assert {state.dtype for state in (*features.hidden_states, features.image_features)} == {torch.bfloat16}


def test_more_references_than_positions_are_refused(encoder: InternVL3, sample: MakeSample) -> None:
    limit = encoder.model.language_model.config.max_position_embeddings
    too_many = limit // encoder.tokens_per_image + 1
    complaint = rf"'a red toy' with {too_many} references takes \d+ tokens; .*has {limit} positions"
    with pytest.raises(InputError, match=complaint):
        encoder.encode([sample("a toy"), sample("a red toy", *[(8, 8)] * too_many)])
