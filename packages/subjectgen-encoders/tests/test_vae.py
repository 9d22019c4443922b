"""The autoencoder: latents as FLUX expects them, sizes the backbone can pack."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxKontextPipeline
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from subjectgen.core import InputError, Sample
from subjectgen.encoders.resizing import shrunk_to_area
from subjectgen.encoders.vae import VAE

MakeSample = Callable[..., Sample]


@pytest.fixture(scope="module")
def vae(pipeline_checkpoint: Path) -> VAE:
    return VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), max_size=64))


@pytest.fixture(scope="module")
def model(pipeline_checkpoint: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(pipeline_checkpoint / "vae").eval()


@torch.no_grad()
def test_latents_are_scaled_and_shifted(vae: VAE, model: AutoencoderKL, sample: MakeSample) -> None:
    images = torch.stack([sample("", (32, 48), seed=s).references[0].image for s in range(2)])
    posterior = model.encode(images * 2 - 1).latent_dist
    expected = (posterior.mean - model.config.shift_factor) * model.config.scaling_factor
    torch.testing.assert_close(vae.encode_images(images), expected)
    torch.testing.assert_close(vae.encode([sample("", (32, 48), seed=1)]).values[0], expected[1:])


@torch.no_grad()
def test_latents_and_images_are_those_of_diffusers_pipeline(vae: VAE, model: AutoencoderKL, sample: MakeSample) -> None:
    others = ("scheduler", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
    pipeline = FluxKontextPipeline(vae=model, **dict.fromkeys(others))
    images = sample("", (32, 48)).references[0].image[None]
    latents = vae.encode_images(images)
    theirs = pipeline._encode_vae_image(pipeline.image_processor.preprocess(images), torch.Generator())
    torch.testing.assert_close(latents, theirs, rtol=0, atol=1e-6)
    pixels = model.decode(theirs / model.config.scaling_factor + model.config.shift_factor).sample
    shown = pipeline.image_processor.postprocess(pixels, output_type="pt")
    torch.testing.assert_close(vae.decode(latents), shown, rtol=0, atol=1e-6)


@torch.no_grad()
def test_decode_undoes_scale_and_shift(vae: VAE, model: AutoencoderKL) -> None:
    raw = torch.randn(2, vae.width, 8, 6, generator=torch.Generator().manual_seed(0))
    expected = (model.decode(raw).sample / 2 + 0.5).clamp(0, 1)
    latents = (raw - model.config.shift_factor) * model.config.scaling_factor
    torch.testing.assert_close(vae.decode(latents), expected)


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), area=st.integers(64, 4096), multiple=st.sampled_from([4, 8])
)
@settings(deadline=None, max_examples=60)
def test_an_area_bounds_the_pixels_and_keeps_the_aspect(height: int, width: int, area: int, multiple: int) -> None:
    """Never more pixels, never enlarged by more than rounding, each side within a multiple of what the aspect says."""
    found = shrunk_to_area(torch.zeros(3, height, width), area=area, multiple=multiple)
    sides, shrink = found.shape[-2:], min(1.0, (area / (height * width)) ** 0.5)
    assert all(side % multiple == 0 for side in sides)
    assert sides[0] * sides[1] <= max(area, multiple * multiple)
    for side, before in zip(sides, (height, width), strict=True):
        assert (
            side == multiple
            or abs(side - before * shrink) <= 1.5 * multiple
            or sides[0] == multiple
            or sides[1] == multiple
        )


def test_sides_are_multiples_and_not_longer_than_max_size(vae: VAE) -> None:
    @settings(deadline=None)
    @given(st.integers(1, 300), st.integers(1, 300))
    def check(height: int, width: int) -> None:
        sides = vae.prepare(torch.full((3, height, width), 0.5)).shape[1:]
        shrink = min(1, 64 / max(height, width))
        for before, after in zip((height, width), sides, strict=True):
            assert after % vae.multiple == 0
            assert vae.multiple <= after <= 64
            assert after == vae.multiple or abs(after - before * shrink) <= vae.multiple / 2

    check()


def test_references_of_any_size_fill_a_batch_when_size_is_given(pipeline_checkpoint: Path, sample: MakeSample) -> None:
    vae = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), size=32))
    latents = vae.encode([sample("", (20, 90), (1, 1)), sample("", (300, 7), (32, 32))])
    side = 32 // vae.scale_factor
    assert [tuple(v.shape) for v in latents.values] == [(2, vae.width, side, side)] * 2


def test_no_references_are_no_latents(vae: VAE) -> None:
    assert vae.encode([Sample(prompt="a toy")]).values == ()


def test_ragged_batches_are_refused(vae: VAE, sample: MakeSample) -> None:
    with pytest.raises(InputError, match=r"same number of references, found \[1, 2\]"):
        vae.encode([sample("", (32, 32)), sample("", (32, 32), (32, 32))])
    with pytest.raises(InputError, match="set size"):
        vae.encode([sample("", (32, 32)), sample("", (32, 48))])


def test_drawing_from_the_posterior_scatters_around_its_mode(
    pipeline_checkpoint: Path, model: AutoencoderKL, sample: MakeSample
) -> None:
    image = sample("", (16, 16)).references[0].image
    vae = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), deterministic=False))
    generators = [torch.Generator().manual_seed(seed) for seed in range(512)]
    draws = vae.encode_images(image.expand(512, 3, 16, 16), generators=generators)
    posterior = model.encode(image[None] * 2 - 1).latent_dist
    expected = (posterior.mean - model.config.shift_factor) * model.config.scaling_factor
    spread = posterior.std * model.config.scaling_factor
    assert ((draws.mean(0) - expected[0]).abs() < 6 * spread[0] / 512**0.5).all()
    torch.testing.assert_close(draws.std(0), spread[0], rtol=0.2, atol=0)


def test_a_references_draw_follows_from_the_picture_alone(pipeline_checkpoint: Path, sample: MakeSample) -> None:
    """Not from what was drawn before, its row, its place among references, or the prompt (fault P9)."""
    vae = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), deterministic=False))
    one, other = (sample("a toy", (32, 48), seed=seed) for seed in (0, 1))
    both = Sample(references=(*other.references, *one.references))
    torch.manual_seed(0)
    alone = vae.encode([one]).values[0][0]
    torch.manual_seed(1)
    beside = vae.encode([other, one]).values[0]
    torch.testing.assert_close(beside[1], alone)
    torch.testing.assert_close(vae.encode([both]).values[1][0], alone)
    mode = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint))).encode([other, one]).values[0]
    noise, others = beside[1] - mode[1], beside[0] - mode[0]
    assert noise.abs().min() > 0
    assert not torch.allclose(noise, others, atol=0.01)


def test_the_backbones_patches_decide_which_sides_there_are(pipeline_checkpoint: Path, sample: MakeSample) -> None:
    image = sample("", (30, 45)).references[0].image
    sides = {
        patch: tuple(VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), patch_size=patch)).prepare(image).shape[1:])
        for patch in (1, 2, 4)
    }
    assert sides == {1: (30, 44), 2: (32, 44), 4: (32, 48)}


def test_bfloat16_stays_near_float32(vae: VAE, pipeline_checkpoint: Path, sample: MakeSample) -> None:
    half = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), dtype="bfloat16"))
    images = sample("", (32, 32)).references[0].image[None]
    latents = half.encode_images(images)
    assert latents.dtype is torch.bfloat16
    torch.testing.assert_close(latents.float(), vae.encode_images(images), atol=0.05, rtol=0.05)
    assert half.decode(latents).dtype is torch.float32


@torch.no_grad()
def test_tiles_are_diffusers_own(pipeline_checkpoint: Path, model: AutoencoderKL, sample: MakeSample) -> None:
    vae = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), tiling=True, tile_size=32))
    tiled = AutoencoderKL.from_pretrained(pipeline_checkpoint / "vae").eval()
    tiled.enable_tiling()
    tiled.tile_sample_min_size, tiled.tile_latent_min_size = 32, 16
    image = sample("", (48, 80)).references[0].image[None]
    posterior = tiled.encode(image * 2 - 1).latent_dist
    expected = (posterior.mean - tiled.config.shift_factor) * tiled.config.scaling_factor
    latents = vae.encode_images(image)
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(vae.decode(latents), (tiled.decode(posterior.mean).sample / 2 + 0.5).clamp(0, 1))
    whole = (model.encode(image * 2 - 1).latent_dist.mean - model.config.shift_factor) * model.config.scaling_factor
    assert latents.shape == whole.shape
    assert not torch.allclose(latents, whole)  # normalisation sees one tile at a time


@torch.no_grad()
def test_images_up_to_one_tile_are_coded_whole(vae: VAE, pipeline_checkpoint: Path, sample: MakeSample) -> None:
    tiled = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), tiling=True, tile_size=64))
    image = sample("", (64, 48)).references[0].image[None]
    assert torch.equal(tiled.encode_images(image), vae.encode_images(image))


@torch.no_grad()
def test_larger_tiles_differ_less_from_the_whole(vae: VAE, pipeline_checkpoint: Path, sample: MakeSample) -> None:
    image = sample("", (128, 128)).references[0].image[None]
    whole = vae.encode_images(image)
    differences = []
    for side in (32, 64, 96, 128):
        tiled = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), tiling=True, tile_size=side))
        images = tiled.decode(whole) - vae.decode(whole)
        differences.append((float((tiled.encode_images(image) - whole).norm()), float(images.norm())))
    for larger, smaller in pairwise(differences):
        assert all(more > less for more, less in zip(larger, smaller, strict=True))
    assert differences[-1] == (0, 0)


@torch.no_grad()
def test_the_largest_activation_no_longer_grows_with_the_image(pipeline_checkpoint: Path, sample: MakeSample) -> None:
    def largest(side: int, **options: object) -> int:
        vae = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), **options))
        sizes: list[int] = []
        for module in vae.model.modules():
            module.register_forward_hook(lambda _m, _a, out: sizes.append(out.numel()) if hasattr(out, "numel") else 0)
        vae.decode(vae.encode_images(sample("", (side, side)).references[0].image[None]))
        return max(sizes)

    tiles = {"tiling": True, "tile_size": 32}
    assert largest(128, **tiles) == largest(64, **tiles)
    assert largest(128) == 4 * largest(64)


def test_options_that_cannot_work_are_refused(pipeline_checkpoint: Path, vae: VAE) -> None:
    checkpoint = str(pipeline_checkpoint)
    with pytest.raises(ValidationError, match=r"overflow in it .*; expected 'float32' or 'bfloat16'"):
        VAE.Config(checkpoint=checkpoint, dtype="float16")
    with pytest.raises(ValidationError, match="'float32' or 'bfloat16'"):
        VAE.Config(checkpoint=checkpoint, dtype="float8")
    with pytest.raises(ValidationError, match="without tiling: true"):
        VAE.Config(checkpoint=checkpoint, tile_size=64)
    with pytest.raises(InputError, match="tile_size 30 is no multiple of 8"):
        VAE(VAE.Config(checkpoint=checkpoint, tiling=True, tile_size=30))
    with pytest.raises(ValidationError, match="exclude each other"):
        VAE.Config(checkpoint=checkpoint, size=32, max_size=64)
    with pytest.raises(ValidationError, match="resize: uno and max_size: 64 exclude each other"):
        VAE.Config(checkpoint=checkpoint, resize="uno", max_size=64)
    with pytest.raises(ValidationError, match="size: 32 and resize: uno exclude each other"):
        VAE.Config(checkpoint=checkpoint, resize="uno", size=32)
    with pytest.raises(ValidationError, match="fit: crop has no meaning without size"):
        VAE.Config(checkpoint=checkpoint, fit="crop")
    with pytest.raises(InputError, match="no multiple of 4"):
        VAE(VAE.Config(checkpoint=checkpoint, size=33))
    with pytest.raises(InputError, match="less than 4"):
        VAE(VAE.Config(checkpoint=checkpoint, max_size=3))
    with pytest.raises(InputError, match="no multiples of 4"):
        vae.encode_images(torch.rand(1, 3, 32, 30))
