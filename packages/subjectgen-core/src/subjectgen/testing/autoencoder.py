"""The contract of autoencoders: images to latents and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor, nn

from subjectgen.core import Autoencoder, SubjectgenError
from subjectgen.testing.base import Contract

_EXAMPLES = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SIDES = st.integers(1, 3)


class AutoencoderContract(Contract):
    """Laws of every autoencoder.

    Give a fixture ``autoencoder``, small, on the CPU and in float32::

        class TestMine(AutoencoderContract):
            @pytest.fixture
            def autoencoder(self):
                return Mine(Mine.Config(checkpoint=...))
    """

    patch_size: ClassVar[int] = 2
    """Sides of the images tried are multiples of as many latent pixels, as a backbone's patches need."""
    draws: ClassVar[bool] = False
    """Whether it draws from a posterior where generators are given."""
    loss: ClassVar[float | None] = None
    """How far at most an image is from itself, encoded and decoded; ``None`` where the weights mean nothing."""
    tolerance: ClassVar[float] = 1e-4
    """Largest difference that counts as equal."""

    def images(self, autoencoder: Any, *, rows: int = 2, sides: tuple[int, int] = (2, 3), seed: int = 0) -> Tensor:
        """Random images in [0, 1], ``sides`` patches high and wide."""
        step = autoencoder.scale_factor * self.patch_size
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(rows, 3, sides[0] * step, sides[1] * step, generator=generator)

    # ------------------------------------------------------------------------------------------ what it is

    def test_it_says_what_it_is(self, autoencoder: Any) -> None:
        """It is a module with every member of the protocol."""
        assert isinstance(autoencoder, Autoencoder)
        assert isinstance(autoencoder, nn.Module)
        assert autoencoder.latent_channels >= 1
        assert autoencoder.scale_factor >= 1

    def test_it_is_frozen(self, autoencoder: Any) -> None:
        """No weight asks for a gradient, and ``train()`` does not leave evaluation mode."""
        autoencoder.train()
        assert not any(module.training for module in autoencoder.modules())
        assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
        with torch.enable_grad():
            latents = autoencoder.encode_images(self.images(autoencoder))
            assert not latents.requires_grad
            assert not autoencoder.decode(latents).requires_grad

    # ------------------------------------------------------------------------------------------ what it gives

    def test_sizes_are_as_promised_and_come_back(self, autoencoder: Any) -> None:
        """Latents have ``latent_channels`` and sides by ``scale_factor`` smaller; decoding gives the images' sides."""

        @_EXAMPLES
        @given(rows=st.integers(1, 2), sides=st.tuples(SIDES, SIDES))
        def law(rows: int, sides: tuple[int, int]) -> None:
            images = self.images(autoencoder, rows=rows, sides=sides)
            latents = autoencoder.encode_images(images)
            rows_of_latents, columns = (side // autoencoder.scale_factor for side in images.shape[2:])
            assert latents.shape == (rows, autoencoder.latent_channels, rows_of_latents, columns)
            assert latents.is_floating_point()
            assert latents.isfinite().all()
            assert autoencoder.decode(latents).shape == images.shape

        law()

    def test_what_is_decoded_are_images(self, autoencoder: Any) -> None:
        """In [0, 1] and float32, also of latents that no image has."""
        latents = autoencoder.encode_images(self.images(autoencoder))
        for scale in (0.0, 1.0, 30.0):
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(latents)
            images = autoencoder.decode(scale * noise)
            assert images.dtype == torch.float32
            assert images.isfinite().all()
            assert 0 <= images.min() <= images.max() <= 1

    def test_it_gives_back_what_it_was_given(self, autoencoder: Any) -> None:
        """Up to ``loss``."""
        if self.loss is None:
            pytest.skip("loss is not set: these weights mean nothing")
        images = self.images(autoencoder)
        again = autoencoder.decode(autoencoder.encode_images(images))
        assert float((again - images).abs().max()) <= self.loss

    def test_images_and_latents_are_read(self, autoencoder: Any) -> None:
        """Other images give other latents, and other latents other images."""
        first, second = (autoencoder.encode_images(self.images(autoencoder, seed=seed)) for seed in (1, 2))
        assert not torch.allclose(first, second)
        assert not torch.allclose(autoencoder.decode(first), autoencoder.decode(second))

    def test_rows_are_independent(self, autoencoder: Any) -> None:
        """A row gives the same alone and beside others."""
        images = self.images(autoencoder, rows=3)
        latents = autoencoder.encode_images(images)
        decoded = autoencoder.decode(latents)
        for row in range(3):
            one = slice(row, row + 1)
            self._assert_same(autoencoder.encode_images(images[one]), latents[one])
            self._assert_same(autoencoder.decode(latents[one]), decoded[one])

    def test_what_it_is_given_stays_as_it_is(self, autoencoder: Any) -> None:
        """Neither images nor latents are written to."""
        images = self.images(autoencoder)
        before = images.clone()
        latents = autoencoder.encode_images(images)
        assert torch.equal(images, before)
        before = latents.clone()
        autoencoder.decode(latents)
        assert torch.equal(latents, before)

    # ------------------------------------------------------------------------------------------ what it draws

    def test_without_a_generator_nothing_is_drawn(self, autoencoder: Any) -> None:
        """The same images give the same latents, and the same latents the same images, whatever was drawn before."""
        images = self.images(autoencoder)
        first, second = _under_two_seeds(lambda: autoencoder.encode_images(images))
        assert torch.equal(first, second)
        one, other = _under_two_seeds(lambda: autoencoder.decode(first))
        assert torch.equal(one, other)

    def test_the_generator_alone_decides_what_is_drawn(self, autoencoder: Any) -> None:
        """Equal generators, one for each row, give equal latents; others do where nothing is drawn."""
        images = self.images(autoencoder)

        def drawn(seed: int) -> Tensor:
            generators = [torch.Generator().manual_seed(seed + row) for row in range(len(images))]
            return autoencoder.encode_images(images, generators=generators)

        first, second = _under_two_seeds(lambda: drawn(1))
        assert torch.equal(first, second)
        assert torch.equal(drawn(2), first) == (not self.draws)
        assert torch.equal(autoencoder.encode_images(images), first) == (not self.draws)

    # ------------------------------------------------------------------------------------------ what it refuses

    def test_sides_that_do_not_fit_are_refused(self, autoencoder: Any) -> None:
        """With an error of ours that says how large the image is."""
        if autoencoder.scale_factor * self.patch_size == 1:
            pytest.skip("every side fits")
        height, width = self.images(autoencoder).shape[2:]
        with pytest.raises(SubjectgenError, match=str(width + 1)):
            autoencoder.encode_images(torch.rand(1, 3, height, width + 1))

    def _assert_same(self, actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual, expected, rtol=self.tolerance, atol=self.tolerance)


def _under_two_seeds(call: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What a call gives under two states of torch's global generator, which it must leave as they are."""
    given = []
    with torch.random.fork_rng(devices=()):
        for seed in (0, 1):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            given.append(call())
            assert torch.equal(torch.get_rng_state(), before), "it draws from torch's global generator"
    return given[0], given[1]
