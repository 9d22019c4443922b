"""Any picture becomes RGB in [0, 1]; anything else is refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from subjectgen.core import InputError, load_mask, load_reference, to_pil

PIXELS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4)))
COLOUR = (200, 40, 90)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def gradient(height: int = 24, width: int = 40) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@given(PIXELS)
def test_rgb_comes_back_exactly(pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels[..., :3].copy())
    for source in (image, encoded(image)):
        loaded = load_reference(source).image
        assert torch.equal(loaded, torch.from_numpy(pixels[..., :3].copy()).permute(2, 0, 1) / 255)
        assert np.array_equal(np.asarray(to_pil(loaded)), pixels[..., :3])


@given(PIXELS)
def test_alpha_lies_on_white(pixels: np.ndarray) -> None:
    loaded = load_reference(encoded(Image.fromarray(pixels))).image
    colour, alpha = pixels[..., :3] / 255.0, pixels[..., 3:] / 255.0
    expected = torch.from_numpy(colour * alpha + 1 - alpha).permute(2, 0, 1).float()
    torch.testing.assert_close(loaded, expected)


def test_every_mode_gives_its_colour() -> None:
    """One colour, written in each way a file can hold it."""
    flat = Image.new("RGB", (5, 3), COLOUR)
    grey = Image.new("L", (5, 3), 77)
    cases = {
        "palette": (encoded(flat.quantize(4)), COLOUR),
        "grey": (encoded(grey), (77,) * 3),
        "grey and alpha": (encoded(Image.merge("LA", [grey, Image.new("L", (5, 3), 0)])), (255,) * 3),
        "black and white": (encoded(Image.new("1", (5, 3), 1)), (255,) * 3),
        "16 bit": (encoded(Image.fromarray(np.full((3, 5), 77 * 257, np.uint16))), (77,) * 3),
        "32 bit": (encoded(Image.fromarray(np.full((3, 5), 77 * 257, np.int32)), "TIFF"), (77,) * 3),
        "float": (encoded(Image.fromarray(np.full((3, 5), 77 / 255, np.float32)), "TIFF"), (77,) * 3),
        "cmyk": (encoded(flat.convert("CMYK"), "TIFF"), COLOUR),
        "gif": (encoded(flat, "GIF"), COLOUR),
        "bmp": (encoded(flat, "BMP"), COLOUR),
        "webp": (encoded(flat, "WEBP", lossless=True), COLOUR),
    }
    for name, (source, colour) in cases.items():
        image = load_reference(source).image
        expected = torch.tensor(colour).div(255)[:, None, None].expand(3, 3, 5)
        torch.testing.assert_close(image, expected, atol=1.5 / 255, rtol=0, msg=name)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_close_in_every_mode(mode: str) -> None:
    image = gradient()
    expected = load_reference(image.convert(mode).convert("RGB")).image
    loaded = load_reference(encoded(image.convert(mode), "JPEG", quality=95)).image
    assert (loaded - expected).abs().mean() < 0.03


def test_a_transparent_palette_lies_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*COLOUR, 0, 0, 0])
    image.putpixel((0, 0), 1)
    loaded = load_reference(encoded(image, transparency=1)).image
    assert loaded[:, 0, 0].tolist() == [1, 1, 1]
    torch.testing.assert_close(loaded[:, 1, 1], torch.tensor(COLOUR) / 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_rotation_is_applied(orientation: int) -> None:
    """The upright picture, stored as the camera held it, is upright again."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = gradient()
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_reference(encoded(stored, exif=exif)).image
    assert torch.equal(loaded, load_reference(upright).image)


def test_paths_and_names(tmp_path: Path) -> None:
    gradient().save(tmp_path / "cat.png")
    for source in (tmp_path / "cat.png", str(tmp_path / "cat.png")):
        reference = load_reference(source, name="the cat")
        assert reference.name == "the cat"
        assert reference.image.shape == (3, 24, 40)


def test_no_file_no_image_half_an_image(tmp_path: Path) -> None:
    gradient().save(tmp_path / "cat.png")
    (tmp_path / "notes.png").write_text("not an image")
    (tmp_path / "half.jpg").write_bytes(encoded(gradient(200, 200), "JPEG")[:1000])
    for name, message in {"cta.png": "no such file; did you mean 'cat.png'", "notes.png": "not an image"}.items():
        with pytest.raises(InputError, match=message) as caught:
            load_reference(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(InputError, match=r"half\.jpg.*truncated"):
        load_reference(tmp_path / "half.jpg")


def test_what_is_there_but_is_no_file_is_called_so(tmp_path: Path) -> None:
    """Nothing is told that it might mean itself."""
    (tmp_path / "toys").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    cases = {
        tmp_path / "toys": "toys': is a folder; expected a picture",
        tmp_path / "link.png": r"link\.png': is a link to '.*gone\.png', which is not there",
        tmp_path / "a\0b.png": "cannot be read: .*null",
        tmp_path / ("x" * 300): "cannot be read: File name too long",
        "": "is a folder",
    }
    for source, message in cases.items():
        for load in (load_reference, load_mask):
            with pytest.raises(InputError, match=message) as caught:
                load(source)
            assert "did you mean" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(format=st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"]), data=st.data())
def test_damaged_bytes_are_refused_or_read_never_worse(format: str, data: st.DataObject) -> None:
    good = bytearray(encoded(gradient(), format))
    cut = data.draw(st.integers(0, len(good)))
    for _ in range(data.draw(st.integers(0, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = load_reference(bytes(good[:cut])).image
    except InputError:
        return
    assert image.ndim == 3
    assert len(image) == 3
    assert 0 <= image.min() <= image.max() <= 1


def test_half_of_the_data_is_refused() -> None:
    for format in ("PNG", "JPEG", "TIFF", "WEBP"):
        data = encoded(gradient(200, 200), format)
        with pytest.raises(InputError):
            load_reference(data[: len(data) // 2])


def test_a_picture_that_is_not_finite_is_not_saved() -> None:
    with pytest.raises(InputError, match="not finite"):
        to_pil(torch.full((3, 2, 2), float("nan")))
