"""InternVL3's tiles: off unless asked for, and then those of transformers' own processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from subjectgen.core import Modality, Sample
from subjectgen.core.images import to_pil
from subjectgen.encoders.internvl3 import InternVL3

MakeSample = Callable[..., Sample]
SIZES = ((32, 32), (64, 64), (60, 130), (200, 40), (9, 9), (300, 300))


def build(checkpoint: Path, **options: object) -> InternVL3:
    return InternVL3(InternVL3.Config(checkpoint=str(checkpoint), **options))


def test_a_reference_is_one_tile_whatever_its_size_and_the_checkpoints_processor_say(
    internvl3_checkpoint: Path, tmp_path: Path, sample: MakeSample
) -> None:
    for file in internvl3_checkpoint.iterdir():
        (tmp_path / file.name).symlink_to(file)
    processor = json.loads((internvl3_checkpoint / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**processor, "crop_to_patches": True}))
    encoder = build(tmp_path)
    features = encoder.encode([sample("", (300, 300), (20, 200))])
    assert [int((features.reference == k).sum()) for k in range(2)] == [encoder.tokens_per_image] * 2


@pytest.mark.parametrize("max_patches", [2, 6, 12])
def test_tiles_are_those_of_transformers_own_processor(
    internvl3_checkpoint: Path, sample: MakeSample, max_patches: int
) -> None:
    encoder = build(internvl3_checkpoint, crop_to_patches=True, max_patches=max_patches)
    references = sample("", *SIZES).references
    processor = GotOcr2ImageProcessorPil.from_pretrained(internvl3_checkpoint)
    expected = processor(
        [to_pil(r.image) for r in references], crop_to_patches=True, max_patches=max_patches, return_tensors="pt"
    )
    found = encoder.prepare_images([r.image for r in references])
    counts = [int(count) for count in expected.num_patches]
    assert list(found.tokens) == [encoder.tokens_per_image * count for count in counts]
    assert max(counts) > 1
    torch.testing.assert_close(found.inputs["pixel_values"], expected.pixel_values, atol=2e-6, rtol=0)


def test_all_tiles_of_a_reference_are_its_image_tokens(internvl3_checkpoint: Path, sample: MakeSample) -> None:
    encoder = build(internvl3_checkpoint, crop_to_patches=True, max_patches=4)
    features = encoder.encode([sample("a toy", (64, 64), (32, 32))])
    image = features.modality == Modality.IMAGE
    tiles = [int((features.reference == k).sum()) // encoder.tokens_per_image for k in range(2)]
    assert tiles == [5, 1]  # four tiles and the whole; a reference of one tile needs no second view
    torch.testing.assert_close(features.hidden_states[0][image], features.image_features[image], rtol=0, atol=0)


def test_tiles_and_padding_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="remove fit: pad"):
        InternVL3.Config(crop_to_patches=True, fit="pad")
