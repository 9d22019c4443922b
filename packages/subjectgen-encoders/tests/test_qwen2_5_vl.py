"""Qwen2.5-VL: parity with transformers, and positions that transformers would silently get wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from subjectgen.core import Modality, Sample
from subjectgen.core.images import to_pil
from subjectgen.encoders.preprocessing import native_size
from subjectgen.encoders.qwen2_5_vl import Qwen25VL

MakeSample = Callable[..., Sample]


@pytest.fixture
def encoder(qwen_checkpoint: Path) -> Qwen25VL:
    return Qwen25VL(Qwen25VL.Config(checkpoint=str(qwen_checkpoint)))


@pytest.fixture
def reference_model(qwen_checkpoint: Path) -> Any:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen_checkpoint).eval()


def whole_inputs(encoder: Qwen25VL, sample: Sample) -> dict[str, torch.Tensor]:
    """Inputs of the whole model, with every image token written as text."""
    images = encoder.prepare_images([reference.image for reference in sample.references])
    pads = ("<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>" for count in images.tokens)
    turns = (
        "system\nYou are a helpful assistant<|im_end|>\n",
        f"user\n{''.join(pads)}{sample.prompt}<|im_end|>\n",
        "assistant\n",
    )
    text = "".join(f"<|im_start|>{turn}" for turn in turns)
    tokens = encoder.prompting.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask, **images.inputs}


def kept(encoder: Qwen25VL, ids: torch.Tensor, prompt: str) -> torch.Tensor:
    tokenizer = encoder.prompting.tokenizer
    images = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).nonzero().flatten()
    end = int((ids == tokenizer.convert_tokens_to_ids("<|im_end|>")).nonzero()[-1])
    return torch.cat([images, torch.arange(end - len(prompt.split()), end)])


@torch.no_grad()
def test_hidden_states_are_those_of_the_whole_model_with_spatial_positions(
    encoder: Qwen25VL, reference_model: Any, sample: MakeSample
) -> None:
    one = sample("a red toy", (32, 48), (40, 16))
    inputs = whole_inputs(encoder, one)
    is_image = (inputs["input_ids"] == encoder.model.config.image_token_id).int()
    spatial = reference_model(**inputs, mm_token_type_ids=is_image, output_hidden_states=True)
    flat = reference_model(**inputs, output_hidden_states=True)
    # The longer row beside it brings padding; the row without references brings a row without a grid.
    features = encoder.encode([one, sample("toy"), sample("a red toy on the beach", (64, 64), (64, 64))])
    positions = kept(encoder, inputs["input_ids"][0], one.prompt)
    for mine, theirs in zip(features.hidden_states, spatial.hidden_states, strict=True):
        largest = float(theirs.abs().max())
        torch.testing.assert_close(mine[0, : len(positions)], theirs[0, positions], atol=1e-6 * largest, rtol=1e-6)
    last = features.hidden_states[-1][0, : len(positions)]
    assert not torch.allclose(last, flat.hidden_states[-1][0, positions], atol=1e-2)


@torch.no_grad()
def test_positions_are_spatial_and_without_the_token_types_they_would_not_be(
    encoder: Qwen25VL, reference_model: Any, sample: MakeSample
) -> None:
    one = sample("a red toy", (32, 48), (40, 16))
    inputs = whole_inputs(encoder, one)
    seen: list[torch.Tensor] = []
    encoder.model.language_model.rotary_emb.register_forward_pre_hook(
        lambda _module, args, keywords: seen.append(keywords.get("position_ids", args[-1])), with_kwargs=True
    )
    encoder.encode([one])
    ids, grid = inputs["input_ids"], inputs["image_grid_thw"]
    is_image = (ids == encoder.model.config.image_token_id).int()
    expected, _ = reference_model.model.get_rope_index(ids, is_image, image_grid_thw=grid)
    length = seen[0].shape[-1]  # what follows the prompt is not computed
    assert torch.equal(seen[0][-3:], expected[..., :length])
    time, rows, columns = seen[0][-3:, 0]
    assert not torch.equal(rows, columns)
    assert not torch.equal(time, torch.arange(length))
    # The same call without the token types, as a caller of transformers might write it:
    encoder.model.rope_deltas = None
    encoder.model(input_ids=ids, pixel_values=inputs["pixel_values"], image_grid_thw=grid)
    assert torch.equal(seen[1][-1, 0], torch.arange(ids.shape[1]))


@torch.no_grad()
def test_left_padding_as_transformers_would_is_the_same(
    encoder: Qwen25VL, reference_model: Any, sample: MakeSample
) -> None:
    batch = [sample("a red toy", (32, 48)), sample("a red toy on the beach", (40, 16), seed=1)]
    both = [whole_inputs(encoder, one) for one in batch]
    length = max(inputs["input_ids"].shape[1] for inputs in both)
    pad = lambda row, value: torch.nn.functional.pad(row, (length - row.shape[1], 0), value=value)  # noqa: E731
    ids = torch.cat([pad(inputs["input_ids"], 0) for inputs in both])
    mask = torch.cat([pad(inputs["attention_mask"], 0) for inputs in both])
    images = {key: torch.cat([inputs[key] for inputs in both]) for key in ("pixel_values", "image_grid_thw")}
    is_image = (ids == encoder.model.config.image_token_id).int()
    whole = reference_model(
        input_ids=ids, attention_mask=mask, mm_token_type_ids=is_image, output_hidden_states=True, **images
    )
    features = encoder.encode(batch)
    for row, one in enumerate(batch):
        positions = kept(encoder, ids[row], one.prompt)
        for mine, theirs in zip(features.hidden_states, whole.hidden_states, strict=True):
            largest = float(theirs.abs().max())
            torch.testing.assert_close(
                mine[row, features.mask[row]], theirs[row, positions], atol=1e-6 * largest, rtol=1e-6
            )


@torch.no_grad()
def test_vision_features_are_those_after_the_merger(
    encoder: Qwen25VL, reference_model: Any, sample: MakeSample
) -> None:
    batch = [sample("a toy", (32, 48)), sample("red", (16, 40), (64, 64), seed=1)]
    images = encoder.prepare_images([r.image for s in batch for r in s.references])
    expected = torch.cat(reference_model.get_image_features(**images.inputs).pooler_output)
    features = encoder.encode(batch)
    image = features.modality == Modality.IMAGE
    torch.testing.assert_close(features.image_features[image], expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(features.hidden_states[0][image], expected, atol=1e-6, rtol=1e-6)


def test_the_vision_tower_runs_once(encoder: Qwen25VL, sample: MakeSample) -> None:
    calls: list[int] = []
    encoder.model.visual.register_forward_hook(lambda *_: calls.append(1))
    encoder.encode([sample("a toy", (32, 32)), sample("red", (32, 32), (48, 24))])
    assert sum(calls) == 1


def test_each_reference_has_tokens_by_its_size(encoder: Qwen25VL, sample: MakeSample) -> None:
    features = encoder.encode([sample("toy", (32, 48), (16, 16))])
    per_token = encoder.multiple**2
    counts = [int((features.reference == k).sum()) for k in range(2)]
    assert counts == [32 * 48 // per_token, 16 * 16 // per_token]


def test_a_batch_of_text_after_one_of_images_is_not_disturbed(encoder: Qwen25VL, sample: MakeSample) -> None:
    # The model keeps position offsets of the last batch with images.
    text = [sample("a red toy on the beach"), sample("toy")]
    before = encoder.encode(text).hidden_states[-1]
    encoder.encode([sample("a toy", (64, 64)), sample("toy", (64, 64))])
    torch.testing.assert_close(encoder.encode(text).hidden_states[-1], before, rtol=0, atol=0)


def test_max_tokens_shrinks_large_references(qwen_checkpoint: Path, sample: MakeSample) -> None:
    encoder = Qwen25VL(Qwen25VL.Config(checkpoint=str(qwen_checkpoint), max_tokens=6))
    features = encoder.encode([sample("", (300, 200))])
    assert 1 <= int(features.mask.sum()) <= 6


def test_raw_last_layer_lacks_only_the_final_norm(qwen_checkpoint: Path, sample: MakeSample) -> None:
    config = Qwen25VL.Config(checkpoint=str(qwen_checkpoint))
    raw = Qwen25VL(config.model_copy(update={"raw_last_layer": True}))
    one = [sample("a red toy", (32, 32))]
    expected, features = Qwen25VL(config).encode(one), raw.encode(one)
    assert not features.last_layer_normalized
    norm = raw.model.language_model.norm
    torch.testing.assert_close(norm(features.hidden_states[-1]), expected.hidden_states[-1])


def test_pixels_are_those_of_transformers_own_processor(
    encoder: Qwen25VL, qwen_checkpoint: Path, sample: MakeSample
) -> None:
    references = sample("", (37, 51), (64, 40)).references
    processor = Qwen2VLImageProcessorPil.from_pretrained(qwen_checkpoint)
    expected = processor([to_pil(r.image) for r in references], return_tensors="pt")
    found = encoder.prepare_images([r.image for r in references]).inputs
    assert found["image_grid_thw"].tolist() == expected.image_grid_thw.tolist()
    torch.testing.assert_close(found["pixel_values"], expected.pixel_values, atol=2e-6, rtol=0)


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(4, 1300))
def test_sizes_are_those_of_smart_resize_unless_these_break_its_own_bound(height: int, width: int, tokens: int) -> None:
    bounds = {"min_pixels": 4 * 28 * 28, "max_pixels": tokens * 28 * 28}
    size = native_size(height, width, multiple=28, **bounds)
    assert size[0] * size[1] <= bounds["max_pixels"]
    assert size[0] % 28 == size[1] % 28 == 0
    assert min(size) >= 28
    if max(height, width) / min(height, width) <= 200:
        theirs = smart_resize(height, width, 28, **bounds)
        assert size == theirs or theirs[0] * theirs[1] > bounds["max_pixels"]
