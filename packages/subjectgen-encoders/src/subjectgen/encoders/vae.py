"""FLUX's autoencoder: references as latents, latents back to images.

Shape letters: b batch, h w pixels, c latent channels, y x latent pixels, k references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from subjectgen.core import InputError, Latents, Sample
from subjectgen.core.images import fit_image
from subjectgen.core.weights import load_diffusers
from subjectgen.encoders.frozen import Frozen, dtype_of
from subjectgen.encoders.loading import CheckpointConfig
from subjectgen.encoders.planned import Sources
from subjectgen.encoders.preprocessing import check_images


class VAE(Frozen):
    """References -> latents, scaled and shifted as FLUX expects them: (z - shift) * scale."""

    class Config(CheckpointConfig):
        """Options of ``vae``."""

        checkpoint: str = "black-forest-labs/FLUX.1-dev"
        """A pipeline folder, or with ``subfolder: ""`` the folder of an ``AutoencoderKL`` itself."""
        subfolder: str = "vae"
        """Folder of the autoencoder in the checkpoint."""
        dtype: Literal["float32", "bfloat16"] = "float32"
        """Data type of the weights; there is no float16, in which FLUX's autoencoder overflows."""
        deterministic: bool = True
        """Take the posterior's mode; ``false`` draws from it."""
        size: int | None = Field(default=None, ge=1)
        """Make every reference a square of this many pixels; ``None`` keeps its aspect ratio."""
        fit: Literal["pad", "crop", "stretch"] = "pad"
        """How a reference becomes square when ``size`` is given; ``pad`` shows all of it on white."""
        max_size: int = Field(default=512, ge=1)
        """Longest side in pixels when ``size`` is not given; smaller references are not enlarged."""
        tiling: bool = False
        """Code images with a side above ``tile_size`` in overlapping tiles, whose seams are blended: memory no longer
        grows with the image. Each tile is normalised by itself, so pixels change, less the larger the tiles are."""
        tile_size: int | None = Field(default=None, ge=1)
        """Side of a tile in pixels; ``None`` takes the checkpoint's ``sample_size``, 1024 for FLUX."""

        @field_validator("dtype", mode="before")
        @classmethod
        def _no_float16(cls, value: object) -> object:
            if value == "float16":
                raise ValueError(
                    "float16 is refused: activations of FLUX's autoencoder overflow in it (force_upcast in its config);"
                    " expected 'float32' or 'bfloat16'"
                )
            return value

        @model_validator(mode="after")
        def _tiles_are_wanted(self) -> VAE.Config:
            if self.tile_size is not None and not self.tiling:
                raise ValueError(f"tile_size: {self.tile_size} has no meaning without tiling: true")
            return self

        @model_validator(mode="after")
        def _one_size(self) -> VAE.Config:
            if self.size is not None and "max_size" in self.model_fields_set:
                raise ValueError(f"size: {self.size} and max_size: {self.max_size} exclude each other; remove one")
            return self

    inputs: frozenset[str] = frozenset({"references"})
    depth: int = 1
    pooled_width: int | None = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model: Any = load_diffusers(AutoencoderKL, config.located(config.subfolder), dtype=config.dtype)
        self._read_sizes()

    @classmethod
    def planned(cls, config: VAE.Config, sources: Sources) -> VAE:
        """The autoencoder without weights, for ``subjectgen plan``."""
        encoder = cls.__new__(cls)
        Frozen.__init__(encoder)
        encoder.config = config
        model = AutoencoderKL.from_config(sources.config(config.checkpoint, config.subfolder))
        encoder.model = nn.Module.to(model, getattr(torch, config.dtype))  # diffusers' own `to` warns of nothing
        encoder._read_sizes()
        return encoder

    def _read_sizes(self) -> None:
        config = self.config
        self.width: int = self.model.config.latent_channels
        self.scale_factor: int = 2 ** (len(self.model.config.block_out_channels) - 1)
        """Image pixels per latent pixel along one axis."""
        self.multiple = 2 * self.scale_factor
        """Sides of an image are multiples of this: the backbone packs 2x2 latent pixels into one token."""
        if config.tiling:
            self._use_tiles(config.tile_size)
        if config.size is not None and config.size % self.multiple:
            raise InputError(f"vae: size {config.size} is no multiple of {self.multiple} pixels")
        if config.max_size < self.multiple:
            raise InputError(f"vae: max_size {config.max_size} is less than {self.multiple} pixels")
        self.freeze()

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Latents:
        """Encode the references of a batch; ``layers`` has no meaning here.

        Raises:
            InputError: an empty batch, rows with different numbers of references, or, without ``size``, references
                with different sizes at the same place.
        """
        if not samples:
            raise InputError("cannot encode an empty batch")
        counts = sorted({len(sample.references) for sample in samples})
        if len(counts) > 1:
            raise InputError(f"all rows of a batch need the same number of references, found {counts}")
        return Latents(values=tuple(self._column(samples, index) for index in range(counts[0])))

    @torch.no_grad()
    def encode_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        """Latents of images in [0, 1] whose sides are multiples of twice ``scale_factor``."""
        if images.shape[-2] % self.multiple or images.shape[-1] % self.multiple:
            raise InputError(f"image sides {tuple(images.shape[-2:])} are no multiples of {self.multiple}")
        posterior = self.model.encode((images * 2 - 1).to(self.device, dtype_of(self.model))).latent_dist
        latents = posterior.mode() if self.config.deterministic else posterior.sample()
        return (latents - self._shift) * self.model.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] of scaled and shifted latents, in float32."""
        raw = latents.to(self.device, dtype_of(self.model)) / self.model.config.scaling_factor + self._shift
        return (self.model.decode(raw).sample.float() / 2 + 0.5).clamp(0, 1)

    def prepare(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h2 w2"]:
        """A reference at the size it is encoded at."""
        if self.config.size is not None:
            return fit_image(image, self.config.size, self.config.fit)
        height, width = image.shape[-2:]
        shrink = min(1.0, self.config.max_size / max(height, width))
        return fit_image(image, (self._side(height * shrink), self._side(width * shrink)), "stretch")

    def _side(self, pixels: float) -> int:
        """Nearest allowed side, at least one step and at most ``max_size``."""
        steps = min(round(pixels / self.multiple), self.config.max_size // self.multiple)
        return max(steps, 1) * self.multiple

    def _column(self, samples: Sequence[Sample], index: int) -> Float[Tensor, "b c y x"]:
        """Latents of reference ``index`` of every row."""
        images = [sample.references[index].image for sample in samples]
        check_images(images)
        prepared = [self.prepare(image.to(self.device, torch.float32)) for image in images]
        sizes = sorted({tuple(image.shape[-2:]) for image in prepared})
        if len(sizes) > 1:
            raise InputError(
                f"reference {index} has different sizes in one batch, {sizes}; set size to make them equal"
            )
        return self.encode_images(torch.stack(prepared))

    def prepared(self, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        """What the autoencoder sees of a batch: the first references, resized (for fingerprints)."""
        images = [self.prepare(sample.references[0].image) for sample in samples if sample.references]
        return {"pixels": torch.stack(images)} if images else {}

    def _use_tiles(self, size: int | None) -> None:
        """Switch tiling on; tiles overlap by a quarter, which must be whole latent pixels."""
        self.model.enable_tiling()
        if size is None:
            return
        step = 4 * self.scale_factor
        if size % step:
            raise InputError(f"vae: tile_size {size} is no multiple of {step} pixels")
        self.model.tile_sample_min_size = size
        self.model.tile_latent_min_size = size // self.scale_factor

    @property
    def _shift(self) -> float:
        return self.model.config.shift_factor or 0.0
