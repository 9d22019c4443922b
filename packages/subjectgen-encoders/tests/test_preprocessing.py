"""Images of any shape become what the checkpoint's own processor would make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from subjectgen.core import InputError, Modality, Sample, load_reference
from subjectgen.core.images import to_pil
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.loading import CheckpointConfig
from subjectgen.encoders.preprocessing import Preprocessing, check_images

MakeSample = Callable[..., Sample]


@pytest.fixture
def encoder(internvl3_checkpoint: Path) -> InternVL3:
    return InternVL3(InternVL3.Config(checkpoint=str(internvl3_checkpoint), fit="stretch"))


def test_pixels_are_those_of_transformers_own_processor(
    encoder: InternVL3, internvl3_checkpoint: Path, sample: MakeSample
) -> None:
    references = sample("", (37, 51), (100, 20), (32, 32), (9, 9)).references
    processor = GotOcr2ImageProcessorPil.from_pretrained(internvl3_checkpoint)
    expected = processor([to_pil(r.image) for r in references], return_tensors="pt").pixel_values
    found = encoder.prepare_images([r.image for r in references]).inputs["pixel_values"]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "switches",
    [{}, {"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}],
    ids=lambda switches: next(iter(switches), "plain"),
)
def test_scale_and_statistics_are_the_checkpoints(tmp_path: Path, switches: dict[str, Any]) -> None:
    values = {
        "size": {"height": 8, "width": 8},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        **switches,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    image = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    expected = GotOcr2ImageProcessorPil.from_pretrained(tmp_path)([to_pil(image)], return_tensors="pt").pixel_values
    found = Preprocessing.from_checkpoint(CheckpointConfig(checkpoint=str(tmp_path))).normalize(image[None])
    torch.testing.assert_close(found, expected)


def test_a_processor_config_serves_too(tmp_path: Path) -> None:
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    found = Preprocessing.from_checkpoint(CheckpointConfig(checkpoint=str(tmp_path)))
    assert (found.mean, found.std, found.scale) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 1.0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (7, 120), (200, 9)])
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_picture_files_of_any_kind_are_references(
    internvl3_checkpoint: Path, tmp_path: Path, mode: str, size: tuple[int, int], fit: str
) -> None:
    file = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.effect_noise(size, 64).convert(mode).save(file)
    encoder = InternVL3(InternVL3.Config(checkpoint=str(internvl3_checkpoint), fit=fit))
    features = encoder.encode([Sample(prompt="a toy", references=(load_reference(file),))])
    assert int((features.modality == Modality.IMAGE).sum()) == encoder.tokens_per_image
    assert torch.isfinite(features.hidden_states[-1]).all()


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (torch.rand(1, 8, 8), "3xHxW"),
        (torch.zeros(3, 8, 0), "3xHxW"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.full((3, 8, 8), 255.0), r"\[0, 1\]"),
        (torch.full((3, 8, 8), float("inf")), r"\[0, 1\]"),
    ],
)
def test_tensors_that_are_no_pictures_are_refused(image: torch.Tensor, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check_images([image])
