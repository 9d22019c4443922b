"""Pictures as callers from Python hold them: arrays and tensors; the rest is refused by type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from subjectgen.core import InputError, image_tensor, load_reference, to_pil

PIXELS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(4)))


@given(PIXELS, st.sampled_from([1, 3, 4]))
def test_numbers_are_the_picture_that_they_came_from(pixels: np.ndarray, channels: int) -> None:
    pixels = np.ascontiguousarray(pixels[..., :channels])
    grey = channels == 1
    expected = image_tensor(Image.fromarray(pixels[..., 0] if grey else pixels))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    same: list[Any] = [pixels, pixels / 255, pixels[::-1][::-1], (pixels / 255).astype(np.float32)]
    same += [tensor, tensor / 255, tensor.double() / 255, (tensor / 255).requires_grad_()]
    same += [pixels[..., 0], pixels[..., 0] / 255] if grey else []
    for source in same:
        found = image_tensor(source)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        assert found.shape == (3, *pixels.shape[:2])
        assert found.is_contiguous()
        assert not found.requires_grad
        assert torch.equal(load_reference(source, name="toy").image, found)


def test_a_picture_is_not_the_callers_memory() -> None:
    for source in (np.zeros((2, 2, 3), dtype=np.float32), torch.zeros(3, 2, 2)):
        found = image_tensor(source)
        source[:] = 1
        assert not found.any()


def test_black_and_white_and_low_precision() -> None:
    assert torch.equal(image_tensor(torch.ones(1, 2, 2).bfloat16()), torch.ones(3, 2, 2))
    assert torch.equal(image_tensor(to_pil(torch.ones(3, 2, 2))), torch.ones(3, 2, 2))


REFUSED = {
    "batch": (torch.rand(1, 3, 4, 4), "got Tensor of shape 1x3x4x4; expected a file's path, its bytes"),
    "two channels": (torch.rand(2, 4, 4), "shape 2x4x4"),
    "channels first": (np.zeros((3, 8, 8)), "got ndarray of shape 3x8x8; expected .*NumPy array HxW, HxWx3 or HxWx4"),
    "channels last": (torch.rand(8, 8, 3), "got Tensor of shape 8x8x3; expected .*torch tensor 1xHxW, 3xHxW"),
    "no pixels": (np.zeros((0, 3, 3)), "shape 0x3x3"),
    "bytes as floats": (
        np.full((2, 2, 3), 255.0),
        r"values in \[255, 255\]; expected floating-point values in \[0, 1\]",
    ),
    "minus one to one": (torch.full((3, 2, 2), -1.0), r"values in \[-1, -1\]"),
    "not finite": (torch.full((3, 2, 2), torch.nan), "values in"),
    "whole numbers": (np.zeros((2, 2, 3), dtype=np.int64), "values of type int64; expected"),
    "text in an array": (np.array(["a.png"]), "got ndarray of <U5"),
    "a list": (["toy.png"], "got list; expected a file's path"),
    "a number": (3, "got int; expected"),
    "nothing": (None, "got NoneType; expected"),
}


@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=list(REFUSED))
def test_anything_else_is_refused_with_what_is_accepted(source: object, message: str) -> None:
    with pytest.raises(InputError, match=f"^reference: .*{message}"):
        load_reference(source)


def test_bytes_in_any_wrapping(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "red.png")
    data = (tmp_path / "red.png").read_bytes()
    for source in (data, bytearray(data), memoryview(data)):
        assert torch.equal(image_tensor(source), image_tensor(tmp_path / "red.png"))
