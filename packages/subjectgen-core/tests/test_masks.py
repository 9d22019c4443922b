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


def unit(values: np.ndarray) -> torch.Tensor:
    """The rule: white is the smallest of 1, 255 and 65535 that no value exceeds."""
    white = next(white for white in (1, 255, 65535) if values.max() <= white)
    return torch.from_numpy(values / white)[None].float()


def read_or_refused(source: object, expected: torch.Tensor) -> None:
    """The mask, or a refusal if it selects nothing."""
    if bool((expected >= 0.5).any()):
        torch.testing.assert_close(load_mask(source), expected)
    else:
        with pytest.raises(InputError, match=r"^mask is empty, its highest value is"):
            load_mask(source)


@given(GREYS)
def test_white_is_inside_and_grey_in_between(greys: np.ndarray) -> None:
    image = Image.fromarray(greys)
    for source in (image, image.convert("RGB"), encoded(image), greys, greys[..., None], torch.from_numpy(greys)):
        read_or_refused(source, unit(greys))


@given(GREYS)
def test_what_is_transparent_is_outside(alpha: np.ndarray) -> None:
    """A white subject on a transparent ground, as a program that cuts out subjects saves it."""
    white = Image.new("L", alpha.shape[::-1], 255)
    read_or_refused(encoded(Image.merge("LA", [white, Image.fromarray(alpha)])), unit(alpha))


STRIPES = np.array([[0, 1, 1], [1, 0, 0]], dtype=np.uint8)


def in_colours(*colours: int) -> Image.Image:
    image = Image.fromarray(STRIPES).convert("P")
    image.putdata(STRIPES.flatten().tolist())
    image.putpalette(colours)
    return image


SAME = {
    "8 bit": Image.fromarray(STRIPES * 255),
    "8 bit, 0 and 1": Image.fromarray(STRIPES),
    "colours, 0 and 1": Image.fromarray(STRIPES).convert("RGB"),
    "opaque, 0 and 1": Image.fromarray(np.stack([STRIPES] * 3 + [STRIPES * 0 + 255], axis=-1)),
    "grey and opacity, 0 and 1": Image.merge("LA", [Image.fromarray(STRIPES)] * 2),
    "1 bit": Image.fromarray(STRIPES.astype(bool)),
    "16 bit": Image.fromarray(STRIPES.astype(np.uint16) * 65535),
    "16 bit, 0 and 1": Image.fromarray(STRIPES.astype(np.uint16)),
    "16 bit, 0 and 255": Image.fromarray(STRIPES.astype(np.uint16) * 255),
    "32 bit, 0 and 1": Image.fromarray(STRIPES.astype(np.int32)),
    "float, 0 and 255": Image.fromarray(STRIPES.astype(np.float32) * 255),
    "palette, black and white": in_colours(0, 0, 0, 255, 255, 255),
    "palette, 0 and 1": in_colours(0, 0, 0, 1, 1, 1),
    "labels, dark red": in_colours(0, 0, 0, 128, 0, 0),
    "booleans": STRIPES.astype(bool),
    "numbers": STRIPES.astype(np.int64),
    "floats": STRIPES.astype(np.float64),
    "tensor": torch.from_numpy(STRIPES),
    "tensor of booleans": torch.from_numpy(STRIPES).bool()[None],
    "tensor of floats": torch.from_numpy(STRIPES).half()[None],
}


@pytest.mark.parametrize("source", SAME.values(), ids=list(SAME))
def test_one_mask_in_any_depth(source: object) -> None:
    assert torch.equal(load_mask(source), torch.from_numpy(STRIPES)[None].float())
    if isinstance(source, Image.Image):
        stream = io.BytesIO()
        source.save(stream, "TIFF")
        assert torch.equal(load_mask(stream.getvalue()), torch.from_numpy(STRIPES)[None].float())


@pytest.mark.parametrize("depth", ["L", "1", "I;16", "RGB", "LA", "P"])
def test_a_mask_that_selects_nothing_is_refused_in_any_depth(depth: str) -> None:
    with pytest.raises(InputError, match="region is empty, its highest value is 0; expected 1 inside"):
        load_mask(Image.new(depth, (3, 2), 0), label="region")


def test_numbers_that_are_no_mask() -> None:
    for source, message in (
        (np.full((2, 2), 1.5), r"values in \[1.5, 1.5\]; expected \[0, 1\]"),
        (np.full((2, 2), -1), r"values in \[-1, -1\]"),
        (np.full((2, 2), np.nan), "values in"),
        (np.ones((2, 2, 2)), "shape 2x2x2; expected"),
        ([[0, 1]], "got list; expected a file's path"),
        (None, "got NoneType; expected a file's path"),
    ):
        with pytest.raises(InputError, match=message):
            load_mask(source)


def test_a_colour_profile_does_not_change_a_mask(display_p3: bytes) -> None:
    """Profiles say how white looks, not where it is."""
    greys = np.linspace(0, 255, 12).astype(np.uint8).reshape(3, 4)
    stream = io.BytesIO()
    Image.fromarray(greys).convert("RGB").save(stream, "PNG", icc_profile=display_p3)
    torch.testing.assert_close(load_mask(stream.getvalue()), unit(greys))


def test_a_picture_keeps_its_size_and_a_path_may_have_commas(tmp_path: Path) -> None:
    path = tmp_path / "0,0,1,1"
    path.write_bytes(encoded(Image.new("L", (4, 3), 255)))
    for source in (path, str(path)):
        assert torch.equal(load_mask(source, (9, 9)), torch.ones(1, 3, 4))


def test_no_file_and_no_picture_are_named(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"region .*mask\.png.*not an image"):
        load_mask(tmp_path / "mask.png", label="region")
    with pytest.raises(InputError, match=r"region .*: is a folder; expected a picture"):
        load_mask(tmp_path, label="region")
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
