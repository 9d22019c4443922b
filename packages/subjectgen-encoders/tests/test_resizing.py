"""References at the size they are encoded at: UNO's own code decides what UNO's way is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from subjectgen.core import InputError, load_reference
from subjectgen.encoders.resizing import as_uno


def preprocess_ref(raw_image: Image.Image, long_size: int = 512) -> Image.Image:
    """Copied from https://github.com/bytedance/UNO at d305981, uno/flux/pipeline.py (Apache-2.0); comments left out."""
    image_w, image_h = raw_image.size
    if image_w >= image_h:
        new_w = long_size
        new_h = int((long_size / image_w) * image_h)
    else:
        new_h = long_size
        new_w = int((long_size / image_h) * image_w)
    raw_image = raw_image.resize((new_w, new_h), resample=Image.LANCZOS)
    target_w = new_w // 16 * 16
    target_h = new_h // 16 * 16
    left = (new_w - target_w) // 2
    top = (new_h - target_h) // 2
    right = left + target_w
    bottom = top + target_h
    raw_image = raw_image.crop((left, top, right, bottom))
    return raw_image.convert("RGB")


def picture(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_unos_way_is_unos() -> None:
    """Bit for bit, larger and smaller pictures, alone and among others; `inference.py` calls it with 512 or 320."""

    @settings(deadline=None, max_examples=25)
    @given(st.integers(60, 700), st.integers(60, 700), st.integers(1, 3))
    def law(height: int, width: int, references: int) -> None:
        original = picture(height, width)
        expected = np.asarray(preprocess_ref(original, 512 if references == 1 else 320))
        got = as_uno(load_reference(original).image, references=references)
        assert np.array_equal((got * 255).round().byte().permute(1, 2, 0).numpy(), expected)

    law()


def test_a_small_picture_gets_as_many_tokens_as_uno_gives_it() -> None:
    """256 pixels square: 1,024 tokens of 16 pixels alone, 400 among others (fault D7)."""
    image = load_reference(picture(256, 256)).image
    tokens = [as_uno(image, references=count).shape[1:].numel() // 256 for count in (1, 2)]
    assert tokens == [1024, 400]


def test_a_picture_of_which_nothing_would_be_left_is_refused() -> None:
    with pytest.raises(InputError, match=r"10x2000 pixels becomes 2x512"):
        as_uno(torch.rand(3, 10, 2000), references=1)
