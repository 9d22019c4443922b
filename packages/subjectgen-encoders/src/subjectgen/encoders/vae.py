"""The encoder and autoencoder ``vae``: references as latents, images to latents and back.

Shape letters: b batch, h w pixels, c latent channels, y x latent pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from subjectgen.core import ChangesResults, ChangesWeights, InputError, Latents, Sample, fit_image
from subjectgen.encoders.kl import KLAutoencoder, KLConfig
from subjectgen.encoders.posterior import noise_of, seed_of
from subjectgen.encoders.preprocessing import check_images
from subjectgen.encoders.resizing import as_uno, shrunk, shrunk_to_area

LONGEST = 512
"""Longest side of a reference in pixels, unless an experiment says otherwise."""


class VAE(KLAutoencoder):
    """An autoencoder that is an encoder too: references -> latents."""

    class Config(KLConfig):
        """Options of ``vae``, as an encoder and as an autoencoder.

        Sizes may differ between training and generating, as they differ between references: the backbone is told each
        grid, so they change results only. ``fit`` is another matter: the model learns to undo that references are
        stretched, or to see past the white beside them.
        """

        resize: ChangesResults[Literal["nearest", "uno"]] = "nearest"
        """How a reference gets its size when ``size`` is not given. ``nearest``: shrunk to ``max_size``, not enlarged;
        each side is stretched to the nearest multiple. ``uno``: as UNO's weights expect it, together with
        ``deterministic: false``; the longer side becomes 512 pixels, 320 where a sample has several references, and
        both are cropped to multiples."""
        size: ChangesResults[int | None] = Field(default=None, ge=1)
        """Make every reference a square of this many pixels; ``None`` keeps its aspect ratio."""
        fit: ChangesWeights[Literal["pad", "crop", "stretch"]] = "pad"
        """How a reference becomes square when ``size`` is given; ``pad`` shows all of it on white."""
        max_size: ChangesResults[int] = Field(default=LONGEST, ge=1)
        """Longest side in pixels when ``size`` is not given; smaller references are not enlarged."""
        max_area: ChangesResults[int | None] = Field(default=None, ge=1)
        """In place of ``max_size``: the most pixels of a reference, its aspect kept. So the VAE may see more than the
        MLLM; trained public models give 1024² pixels to the one and 384² to the other."""

        @model_validator(mode="after")
        def _one_size(self) -> VAE.Config:
            chosen = {
                "size": self.size is not None,
                "resize": self.resize != "nearest",
                "max_size": self.max_size != LONGEST,
                "max_area": self.max_area is not None,
            }
            said = [f"{name}: {getattr(self, name)}" for name, is_chosen in chosen.items() if is_chosen]
            if len(said) > 1:
                raise ValueError(f"{said[0]} and {said[1]} exclude each other; remove one")
            if self.fit != "pad" and self.size is None:
                raise ValueError(f"fit: {self.fit} has no meaning without size: only squares are fitted")
            return self

    inputs: frozenset[str] = frozenset({"references"})
    depth: int = 1
    pooled_width: int | None = None
    config: Config

    def _read_sizes(self) -> None:
        super()._read_sizes()
        self.width: int = self.latent_channels
        if self.config.size is not None and self.config.size % self.multiple:
            raise InputError(f"vae: size {self.config.size} is no multiple of {self.multiple} pixels")
        if self.config.max_size < self.multiple:
            raise InputError(f"vae: max_size {self.config.max_size} is less than {self.multiple} pixels")
        if self.config.max_area is not None and self.config.max_area < self.multiple**2:
            raise InputError(
                f"vae: max_area {self.config.max_area} is less than {self.multiple}x{self.multiple} pixels"
            )

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Latents:
        """Encode the references of a batch; ``layers`` has no meaning here.

        Raises:
            InputError: an empty batch, rows with different numbers of references, or, without ``size``, references
                with different sizes at the same place.
        """
        if not samples:
            raise InputError("cannot encode an empty batch")
        return Latents(values=tuple(self._column(samples, index) for index in range(_count(samples))))

    def prepare(self, image: Float[Tensor, "3 h w"], *, references: int = 1) -> Float[Tensor, "3 h2 w2"]:
        """A reference at the size it is encoded at; ``references``: how many its sample has."""
        if self.config.size is not None:
            return fit_image(image, self.config.size, self.config.fit)
        if self.config.resize == "uno":
            return as_uno(image, references=references, multiple=self.multiple)
        if self.config.max_area is not None:
            return shrunk_to_area(image, area=self.config.max_area, multiple=self.multiple)
        return shrunk(image, longest=self.config.max_size, multiple=self.multiple)

    def prepared(self, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        """What the autoencoder sees of a batch: the references at their sizes, and the seeds of what is drawn."""
        seen = {}
        for index in range(_count(samples)):
            after = f"_{index}" if index else ""
            seen[f"pixels{after}"] = self._pictures(samples, index)
            if not self.config.deterministic:
                seen[f"seeds{after}"] = torch.tensor([seed_of(sample.references[index].image) for sample in samples])
        return seen

    def _column(self, samples: Sequence[Sample], index: int) -> Float[Tensor, "b c y x"]:
        """Latents of reference ``index`` of every row."""
        posterior = self._posterior(self._pictures(samples, index))
        if self.config.deterministic:
            return self._latents(posterior, None)
        shape = tuple(posterior.mean.shape[1:])
        noise = [noise_of(seed_of(sample.references[index].image), shape) for sample in samples]
        return self._latents(posterior, torch.stack(noise))

    def _pictures(self, samples: Sequence[Sample], index: int) -> Float[Tensor, "b 3 h w"]:
        """Reference ``index`` of every row, at its size."""
        images, count = [sample.references[index].image for sample in samples], _count(samples)
        check_images(images)
        pictures = [self.prepare(image.to(self.device, torch.float32), references=count) for image in images]
        sizes = sorted({tuple(picture.shape[-2:]) for picture in pictures})
        if len(sizes) > 1:
            raise InputError(
                f"reference {index} has different sizes in one batch, {sizes}; set size to make them equal"
            )
        return torch.stack(pictures)


def _count(samples: Sequence[Sample]) -> int:
    """How many references each row has.

    Raises:
        InputError: rows with different numbers of references.
    """
    counts = sorted({len(sample.references) for sample in samples})
    if len(counts) > 1:
        raise InputError(f"all rows of a batch need the same number of references, found {counts}")
    return counts[0] if counts else 0
