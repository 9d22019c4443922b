"""Pictures that are broken, turned, huge or somewhere else."""

import io
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin

from subjectgen.core import SampleError, load_reference
from subjectgen.datasets.headers import picture_size
from subjectgen.datasets.image_pairs import ImagePairs
from subjectgen.datasets.sources import BytesSource, FileSource, SliceSource, leaves_folder

EXIF_SIDEWAYS = Image.Exif()
EXIF_SIDEWAYS[0x0112] = 6


@pytest.fixture
def pair(tmp_path, picture):
    """A data set of one pair with this target."""

    def pair(target: bytes, name: str = "t.jpg", **options) -> ImagePairs:
        (tmp_path / name).write_bytes(target)
        (tmp_path / "index.json").write_text(
            json.dumps([{"prompt": "x", "target": name, "reference": picture("r.png")}])
        )
        return ImagePairs(ImagePairs.Config(folder=tmp_path, **options))

    return pair


def encoded(size=(8, 12), kind="JPEG", **options) -> bytes:
    content = io.BytesIO()
    image = Image.effect_noise(size[::-1], 90).convert("RGB")
    image.save(content, format=kind, **options)
    return content.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 400 million pixels."""
    small = bytearray(encoded((8, 8), "PNG"))
    small[16:24] = (20_000).to_bytes(4, "big") * 2
    import zlib

    small[29:33] = zlib.crc32(bytes(small[12:29])).to_bytes(4, "big")
    return bytes(small)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "target: not an image"),
        (b"hello", "target: not an image"),
        (encoded((64, 64))[:-300], "target: cannot be decoded"),
        (encoded((64, 64), "PNG")[:-300], "target: cannot be decoded"),
        (bomb(), "target: cannot be decoded"),
    ],
    ids=["empty", "text", "jpeg cut off", "png cut off", "bomb"],
)
def test_a_broken_picture_is_a_sample_error_that_says_which(pair, content, reason) -> None:
    dataset = pair(content)
    with pytest.raises(SampleError, match=r"index\.json: entry 0: target 't\.jpg'") as caught:
        dataset[0]
    assert caught.value.reason == reason
    with pytest.raises(SampleError):
        dataset.augmented(0, 3)
    assert len(dataset.sizes) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_turned_photo_is_turned_and_measured_so(pair, tmp_path, kind) -> None:
    dataset = pair(encoded((8, 12), kind, exif=EXIF_SIDEWAYS), "t.img")
    assert dataset.sizes[0] == (12, 8)
    assert torch.equal(dataset[0].target, load_reference(tmp_path / "t.img").image)
    assert dataset[0].target.shape == (3, 12, 8)


def test_a_png_may_say_after_its_pixels_that_it_is_turned() -> None:
    plain = encoded((8, 12), "PNG")
    with_exif = encoded((8, 12), "PNG", exif=EXIF_SIDEWAYS)
    start = with_exif.index(b"eXIf") - 4
    chunk = with_exif[start : start + 12 + int.from_bytes(with_exif[start : start + 4], "big")]
    late = plain[:-12] + chunk + plain[-12:]
    assert picture_size(BytesSource("late.png", late)) == (12, 8)
    assert picture_size(BytesSource("plain.png", plain)) == (8, 12)


def test_a_png_that_is_not_turned_is_not_decoded() -> None:
    """Its pixels are cut off, and its size is known all the same."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "made by a model")
    content = encoded((40, 30), "PNG", pnginfo=info)
    assert picture_size(BytesSource("x.png", content[: len(content) // 2])) == (40, 30)


def test_a_broken_target_counts_as_one_of_the_commonest_size(tmp_path, picture) -> None:
    lines = []
    for number, size in enumerate([(8, 12), (8, 12), (12, 8)]):
        lines.append({"prompt": "x", "target": picture(f"{number}.png", size), "reference": "0.png"})
    (tmp_path / "broken.png").write_bytes(b"no picture")
    lines.append({"prompt": "x", "target": "broken.png", "reference": "0.png"})
    (tmp_path / "index.json").write_text(json.dumps(lines))
    dataset = ImagePairs(ImagePairs.Config(folder=tmp_path))
    assert list(dataset.sizes) == [(8, 12), (8, 12), (12, 8), (8, 12)]
    assert dataset.sizes[1:3] == [(8, 12), (12, 8)]
    assert list(ImagePairs(ImagePairs.Config(folder=tmp_path, size=5)).sizes) == [(5, 5)] * 4


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("a/b.png", False),
        ("a/../b.png", False),
        ("./a.png", False),
        ("..png", False),
        ("../a.png", True),
        ("a/../../b.png", True),
        ("/a.png", True),
        ("\\\\server\\a.png", True),
        ("c:/a.png", True),
        ("..", True),
    ],
)
def test_names_that_lead_out_of_a_folder(name, leaves) -> None:
    assert leaves_folder(name) is leaves


def test_a_slice_is_a_file_of_its_own(tmp_path) -> None:
    inner = encoded((8, 12), "PNG")
    (tmp_path / "x.bin").write_bytes(b"before" + inner + b"after")
    source = SliceSource("x.png", str(tmp_path / "x.bin"), 6, len(inner))
    assert source.read() == inner
    assert picture_size(source) == (8, 12)
    with source.open() as stream:
        assert stream.read() == inner
        stream.seek(-3, io.SEEK_END)
        assert stream.read() == inner[-3:]


needs_photos = pytest.mark.skipif("SUBJECTGEN_DREAMBENCH" not in os.environ, reason="no folder of real photos")


@needs_photos
def test_headers_of_real_photos_say_what_decoding_says() -> None:
    photos = sorted(Path(os.environ["SUBJECTGEN_DREAMBENCH"]).rglob("*.jpg"))[:40]
    assert photos
    for photo in photos:
        assert picture_size(FileSource(photo.name, photo)) == load_reference(photo).image.shape[1:], photo
