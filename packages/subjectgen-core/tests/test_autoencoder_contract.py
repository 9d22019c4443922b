"""The contract of autoencoders: one that keeps it passes, those that break one law fail that law."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from subjectgen.core import Config, InputError
from subjectgen.testing import AutoencoderContract


class Blocks(nn.Module):
    """Each block of 2x2 pixels is one latent pixel; nothing is lost. Drawn latents have a little noise."""

    class Config(Config):
        """Nothing to set."""

    latent_channels = 12
    scale_factor = 2

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def train(self, mode: bool = True) -> Blocks:
        return super().train(False)

    @torch.no_grad()
    def encode_images(self, images: Tensor, *, generators: Any = None) -> Tensor:
        if any(side % 4 for side in images.shape[2:]):
            raise InputError(f"sides {tuple(images.shape[2:])}; expected multiples of 4")
        latents = 2 * pixel_unshuffle(images, 2) - 1
        if generators is None:
            return latents
        return latents + 0.01 * torch.stack([torch.randn(latents.shape[1:], generator=one) for one in generators])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return (pixel_shuffle(latents, 2).float() / 2 + 0.5).clamp(0, 1)


class DrawingContract(AutoencoderContract):
    draws = True
    loss = 1e-6


class TestBlocks(DrawingContract):
    @pytest.fixture
    def autoencoder(self) -> Blocks:
        return Blocks()


# ------------------------------------------------------------------------------------- laws that are broken


class Draws(Blocks):
    def encode_images(self, images: Tensor, *, generators: Any = None) -> Tensor:
        latents = super().encode_images(images)
        return latents + torch.rand(latents.shape)


class IgnoresTheGenerator(Blocks):
    def encode_images(self, images: Tensor, *, generators: Any = None) -> Tensor:
        return super().encode_images(images)


class DrawsBesideTheGenerator(Blocks):
    def encode_images(self, images: Tensor, *, generators: Any = None) -> Tensor:
        return super().encode_images(images, generators=generators and [torch.default_generator] * len(images))


class DrawsInDecoding(Blocks):
    def decode(self, latents: Tensor) -> Tensor:
        return (super().decode(latents) - torch.rand(()) / 4).clamp(min=0)


class Trains(Blocks):
    def train(self, mode: bool = True) -> Trains:
        return nn.Module.train(self, mode)


class Unclamped(Blocks):
    def decode(self, latents: Tensor) -> Tensor:
        return pixel_shuffle(latents, 2).float() / 2 + 0.5


class Doubles(Blocks):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents).double()


class Larger(Blocks):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents).repeat(1, 1, 2, 2)


class WrongChannels(Blocks):
    latent_channels = 16


class Unscaled(Blocks):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents / 2)


class Blind(Blocks):
    def decode(self, latents: Tensor) -> Tensor:
        return torch.zeros_like(super().decode(latents))


class NormalizesTheBatch(Blocks):
    def encode_images(self, images: Tensor, *, generators: Any = None) -> Tensor:
        return super().encode_images(images, generators=generators) - images.mean()


class WritesImages(Blocks):
    def encode_images(self, images: Tensor, *, generators: Any = None) -> Tensor:
        latents = super().encode_images(images, generators=generators)
        images *= 2
        return latents


class Crops(Blocks):
    def encode_images(self, images: Tensor, *, generators: Any = None) -> Tensor:
        height, width = (side // 4 * 4 for side in images.shape[2:])
        return super().encode_images(images[..., :height, :width], generators=generators)


class NoDecode(Blocks):
    decode: Any = property()  # reading it raises AttributeError


@pytest.mark.usefixtures("first_counterexample")
@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Draws, "without_a_generator_nothing_is_drawn"),
        (DrawsInDecoding, "without_a_generator_nothing_is_drawn"),
        (IgnoresTheGenerator, "the_generator_alone_decides_what_is_drawn"),
        (DrawsBesideTheGenerator, "the_generator_alone_decides_what_is_drawn"),
        (Trains, "it_is_frozen"),
        (Unclamped, "what_is_decoded_are_images"),
        (Doubles, "what_is_decoded_are_images"),
        (Larger, "sizes_are_as_promised_and_come_back"),
        (WrongChannels, "sizes_are_as_promised_and_come_back"),
        (Unscaled, "it_gives_back_what_it_was_given"),
        (Blind, "images_and_latents_are_read"),
        (NormalizesTheBatch, "rows_are_independent"),
        (WritesImages, "what_it_is_given_stays_as_it_is"),
        (Crops, "sides_that_do_not_fit_are_refused"),
        (NoDecode, "it_says_what_it_is"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_breaks_a_law_fails_that_law(broken: type[Blocks], law: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(DrawingContract(), f"test_{law}")(broken())
