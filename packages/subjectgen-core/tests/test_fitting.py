"""Pictures are brought to any size."""

from __future__ import annotations

import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional

from subjectgen.core import fit_image

SIDES = st.integers(1, 40)


@settings(deadline=None, max_examples=40)
@given(height=SIDES, width=SIDES, rows=SIDES, columns=SIDES, mode=st.sampled_from(["pad", "crop", "stretch"]))
def test_any_size_fits_any_size(height: int, width: int, rows: int, columns: int, mode: str) -> None:
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    fitted = fit_image(image, (rows, columns), mode)
    assert fitted.shape == (3, rows, columns)
    assert 0 <= fitted.min() <= fitted.max() <= 1
    if (rows, columns) == (height, width):
        assert torch.equal(fitted, image)


@settings(deadline=None, max_examples=20)
@given(height=SIDES, width=SIDES, size=SIDES)
def test_padding_is_white_and_the_picture_keeps_its_shape(height: int, width: int, size: int) -> None:
    """A black picture on white: the black part is centred and has the picture's aspect ratio."""
    fitted = fit_image(torch.zeros(3, height, width), size)
    black = (fitted == 0).all(dim=0)
    assert ((fitted == 0) | (fitted == 1)).all()
    scale = size / max(height, width)
    assert int(black.any(dim=1).sum()) == max(1, round(height * scale))
    assert int(black.any(dim=0).sum()) == max(1, round(width * scale))
    margin = black.any(dim=0).int().argmax()
    assert abs(int(margin) - int(black.flip(1).any(dim=0).int().argmax())) <= 1


def test_cropping_keeps_the_middle() -> None:
    image = torch.rand(3, 10, 30)
    assert torch.equal(fit_image(image, 10, "crop"), image[:, :, 10:20])


def test_small_pictures_are_averages() -> None:
    """Antialiased, as torch's own resampling: fine stripes become grey."""
    stripes = (torch.arange(64) % 2).float().expand(3, 64, 64)
    fitted = fit_image(stripes, 8)
    expected = functional.interpolate(stripes[None], 8, mode="bicubic", antialias=True)[0].clamp(0, 1)
    torch.testing.assert_close(fitted, expected)
    assert (fitted - 0.5).abs().max() < 0.05


def test_masks_fit_with_their_own_fill() -> None:
    assert fit_image(torch.ones(1, 2, 4), 4, fill=0.0)[0, :, 0].tolist() == [0, 1, 1, 0]
