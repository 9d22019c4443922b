"""Masks from pictures and from boxes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from subjectgen.core import InputError, load_mask

GREYS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)))
SIDE = st.integers(1, 50)


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


# ----------------------------------------------------------------------------------------------------- pictures


@given(GREYS)
def test_white_is_inside_and_grey_in_between(greys: np.ndarray) -> None:
    expected = torch.from_numpy(greys / 255)[None].float()
    image = Image.fromarray(greys)
    for source in (image, image.convert("RGB"), encoded(image)):
        mask = load_mask(source)
        assert mask.shape == (1, *greys.shape)
        torch.testing.assert_close(mask, expected)
        assert 0 <= mask.min() <= mask.max() <= 1


@given(GREYS)
def test_what_is_transparent_is_outside(alpha: np.ndarray) -> None:
    """A white subject on a transparent ground, as a program that cuts out subjects saves it."""
    white = Image.new("L", alpha.shape[::-1], 255)
    mask = load_mask(encoded(Image.merge("LA", [white, Image.fromarray(alpha)])))
    torch.testing.assert_close(mask, torch.from_numpy(alpha / 255)[None].float())


def test_black_and_white_and_16_bit() -> None:
    stripes = np.array([[0, 1, 1], [1, 0, 0]], dtype=bool)
    expected = torch.from_numpy(stripes)[None].float()
    assert torch.equal(load_mask(encoded(Image.fromarray(stripes))), expected)
    assert torch.equal(load_mask(encoded(Image.fromarray(stripes.astype(np.uint16) * 65535))), expected)


def test_a_picture_keeps_its_size_and_a_path_may_have_commas(tmp_path: Path) -> None:
    path = tmp_path / "0,0,1,1"
    path.write_bytes(encoded(Image.new("L", (4, 3), 255)))
    for source in (path, str(path)):
        assert torch.equal(load_mask(source, (9, 9)), torch.ones(1, 3, 4))


def test_no_file_and_no_picture_are_named(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"region .*mask\.png.*not an image"):
        load_mask(tmp_path / "mask.png", label="region")
    with pytest.raises(InputError, match=r"mask .*masc\.png.*no such file; did you mean 'mask\.png'"):
        load_mask(tmp_path / "masc.png")


# ------------------------------------------------------------------------------------------------------- boxes


@given(height=SIDE, width=SIDE, data=st.data())
def test_a_box_in_pixels_covers_these_pixels(height: int, width: int, data: st.DataObject) -> None:
    left, right = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    if max(right, bottom) == 1:  # that is a box in shares: the whole picture
        return
    expected = torch.zeros(1, height, width)
    expected[0, top:bottom, left:right] = 1
    for source in ((left, top, right, bottom), f"{left},{top},{right},{bottom}", f" {left}, {top}, {right}, {bottom} "):
        assert torch.equal(load_mask(source, (height, width)), expected)


@given(height=SIDE, width=SIDE)
def test_one_is_the_whole_side(height: int, width: int) -> None:
    assert torch.equal(load_mask((0, 0, 1, 1), (height, width)), torch.ones(1, height, width))


@given(height=st.integers(2, 50), width=st.integers(2, 50), parts=st.integers(1, 2), across=st.booleans())
def test_parts_in_shares_leave_no_pixel_out_and_share_none(height: int, width: int, parts: int, across: bool) -> None:
    """Halves of any size, also of odd ones."""
    cuts = [(part / parts, (part + 1) / parts) for part in range(parts)]
    boxes = [(start, 0.0, end, 1.0) if across else (0.0, start, 1.0, end) for start, end in cuts]
    assert torch.equal(sum(load_mask(box, (height, width)) for box in boxes), torch.ones(1, height, width))


def test_shares_are_of_width_and_height() -> None:
    mask = load_mask("0.25,0.5,0.75,1", (4, 8))
    assert mask.nonzero()[:, 1:].amin(dim=0).tolist() == [2, 2]
    assert mask.nonzero()[:, 1:].amax(dim=0).tolist() == [3, 5]
    assert mask.sum() == 8


WRONG = {
    "0,0,9,4": "reaches outside of the picture, which is 8 wide and 4 high",
    "0,0,8,5": "reaches outside",
    "-2,0,4,4": "reaches outside",
    "4,0,4,4": "is empty; expected left < right and top < bottom",
    "5,0,4,4": "is empty",
    "0,3,8,2": "is empty",
    "0.5,0.5,0.5,1": "is empty",
    "0,0,nan,4": "expected four finite numbers: left, top, right, bottom",
    "0,0,inf,4": "expected four finite numbers",
    "0,0,four,4": "expected a file, or four numbers left,top,right,bottom",
}


@pytest.mark.parametrize(("box", "message"), WRONG.items(), ids=list(WRONG))
def test_a_wrong_box_is_named(box: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_mask(box, (4, 8), label="region")
    assert str(caught.value).startswith(f"region {box!r}: ")


def test_a_box_needs_a_size() -> None:
    for box in ("0,0,1,1", (0, 0, 1, 1)):
        with pytest.raises(InputError, match="a box needs the size of its picture"):
            load_mask(box)
