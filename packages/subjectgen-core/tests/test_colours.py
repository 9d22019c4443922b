"""Colour profiles: every picture is sRGB once it is read."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from subjectgen.core import load_reference

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SRGB_FROM_P3 = [[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]]


def photo() -> Image.Image:
    """Every colour in steps."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3))


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def by_formula(image: Image.Image) -> Tensor:
    """P3 to sRGB: to linear light, to the other primaries, back, cut to what sRGB can show."""
    values = torch.from_numpy(np.array(image)).double() / 255
    light = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    light = (light @ torch.tensor(SRGB_FROM_P3, dtype=torch.float64).T).clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).permute(2, 0, 1).float()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_a_phones_photo_has_its_own_colours(format: str, display_p3: bytes) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    found = load_reference(encoded(photo(), format, icc_profile=display_p3, **options)).image
    error = (found - by_formula(photo())).abs() * 255
    assert error.max() < (16 if format == "JPEG" else 2.5)
    assert error.mean() < 1
    untagged = load_reference(photo()).image
    assert (found - untagged).abs().max() * 255 > 60, "as wrong as it was before"


def test_an_opened_picture_too_and_its_opacity_stays(display_p3: bytes) -> None:
    opacity = Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    image = photo()
    image.putalpha(opacity)
    opened = Image.open(io.BytesIO(encoded(image, icc_profile=display_p3)))
    alpha = torch.from_numpy(np.array(opacity)) / 255
    expected = by_formula(photo()) * alpha + 1 - alpha
    torch.testing.assert_close(load_reference(opened).image, expected, atol=2.5 / 255, rtol=0)


def test_a_palette_has_a_profile_too(display_p3: bytes) -> None:
    flat = Image.new("RGB", (3, 2), (200, 40, 90))
    found = load_reference(encoded(flat.quantize(4), icc_profile=display_p3)).image
    torch.testing.assert_close(found, by_formula(flat), atol=2.5 / 255, rtol=0)


def test_a_picture_in_srgb_keeps_its_bits() -> None:
    assert torch.equal(load_reference(encoded(photo(), icc_profile=SRGB)).image, load_reference(photo()).image)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_profile_that_cannot_be_used_is_ignored_with_a_warning(mode: str, display_p3: bytes) -> None:
    image = photo().convert(mode)
    profiles = [b"no profile", display_p3[:200], *([] if mode == "RGB" else [display_p3])]
    for profile in profiles:
        with pytest.warns(UserWarning, match="reference: its colour profile cannot be used, colours are taken as sRGB"):
            found = load_reference(encoded(image, "TIFF", icc_profile=profile)).image
        assert torch.equal(found, load_reference(image).image)


def test_pictures_without_a_profile_say_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_reference(encoded(photo()))


def test_lab_and_ink_go_through_their_profiles() -> None:
    """A picture in Lab* becomes what it was; colours by ink are those of the profile, not of a plain inversion."""
    lab = ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(photo(), ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    found = load_reference(encoded(converted, "TIFF", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())).image
    assert (found - load_reference(photo()).image).abs().mean() < 0.02
