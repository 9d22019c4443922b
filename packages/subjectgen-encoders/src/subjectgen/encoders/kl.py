"""AutoencoderKL, such as FLUX's: images to latents and back.

Shape letters: b batch, h w pixels, c latent channels, y x latent pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from subjectgen.core import ChangesNothing, ChangesResults, InputError
from subjectgen.core.weights import load_diffusers
from subjectgen.encoders.frozen import Frozen, dtype_of
from subjectgen.encoders.loading import CheckpointConfig
from subjectgen.encoders.planned import Sources


class KLConfig(CheckpointConfig):
    """Options of an ``AutoencoderKL``."""

    checkpoint: ChangesNothing[str] = "black-forest-labs/FLUX.1-dev"
    """A pipeline folder, or with ``subfolder: ""`` the folder of an ``AutoencoderKL`` itself."""
    subfolder: ChangesNothing[str] = "vae"
    """Folder of the autoencoder in the checkpoint."""
    dtype: ChangesResults[Literal["float32", "bfloat16"]] = "float32"
    """Data type of the weights; there is no float16, in which FLUX's autoencoder overflows."""
    deterministic: ChangesResults[bool] = True
    """Take the posterior's mode. ``false`` draws from it: a reference's draw follows from its own pixels, a training
    target's from the generator that the run gives, so that what is drawn can be drawn again."""
    patch_size: ChangesResults[int] = Field(default=2, ge=1)
    """Latent pixels per token of the backbone along one axis, 2 for FLUX: sides of all pictures are multiples of as
    many latent pixels."""
    tiling: ChangesResults[bool] = False
    """Code images with a side above ``tile_size`` in overlapping tiles, whose seams are blended: memory no longer
    grows with the image. Each tile is normalised by itself, so pixels change, less the larger the tiles are."""
    tile_size: ChangesResults[int | None] = Field(default=None, ge=1)
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
    def _tiles_are_wanted(self) -> KLConfig:
        if self.tile_size is not None and not self.tiling:
            raise ValueError(f"tile_size: {self.tile_size} has no meaning without tiling: true")
        return self


class KLAutoencoder(Frozen):
    """Images -> latents, scaled and shifted as the backbone expects them, (z - shift) * scale; and back."""

    config: KLConfig

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        from diffusers import AutoencoderKL  # not at import: a file is checked without it

        self.model: Any = load_diffusers(AutoencoderKL, config.located(config.subfolder), dtype=config.dtype)
        self._read_sizes()

    @classmethod
    def planned(cls, config: KLConfig, sources: Sources) -> KLAutoencoder:
        """The autoencoder without weights, for ``subjectgen plan``."""
        from diffusers import AutoencoderKL

        planned = cls.__new__(cls)
        Frozen.__init__(planned)
        planned.config = config
        model = AutoencoderKL.from_config(sources.config(config.checkpoint, config.subfolder))
        planned.model = nn.Module.to(model, getattr(torch, config.dtype))  # diffusers' own `to` warns of nothing
        planned._read_sizes()
        return planned

    def _read_sizes(self) -> None:
        self.latent_channels: int = self.model.config.latent_channels
        self.scale_factor: int = 2 ** (len(self.model.config.block_out_channels) - 1)
        """Image pixels per latent pixel along one axis."""
        self.multiple: int = self.config.patch_size * self.scale_factor
        """Sides of an image are multiples of this: the backbone cuts latents into patches."""
        if self.config.tiling:
            self._use_tiles(self.config.tile_size)
        self.freeze()

    @torch.no_grad()
    def encode_images(
        self, images: Float[Tensor, "b 3 h w"], *, generators: Sequence[torch.Generator] | None = None
    ) -> Float[Tensor, "b c y x"]:
        """Latents of images in [0, 1] whose sides are multiples of ``patch_size`` latent pixels.

        Args:
            images: RGB in [0, 1].
            generators: where ``deterministic: false`` draws from, one for each row; without, the posterior's mode is
                taken.

        Raises:
            InputError: sides that cannot be cut into patches.
        """
        posterior = self._posterior(images)
        noise = None
        if generators is not None and not self.config.deterministic:
            rows = zip(posterior.mean, generators, strict=True)
            noise = torch.stack([torch.randn(row.shape, generator=one, device=one.device) for row, one in rows])
        return self._latents(posterior, noise)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] of scaled and shifted latents, in float32."""
        raw = latents.to(self.device, dtype_of(self.model)) / self.model.config.scaling_factor + self._shift
        return (self.model.decode(raw).sample.float() / 2 + 0.5).clamp(0, 1)

    def _posterior(self, images: Float[Tensor, "b 3 h w"]) -> Any:
        if images.shape[-2] % self.multiple or images.shape[-1] % self.multiple:
            raise InputError(f"image sides {tuple(images.shape[-2:])} are no multiples of {self.multiple}")
        return self.model.encode((images * 2 - 1).to(self.device, dtype_of(self.model))).latent_dist

    def _latents(self, posterior: Any, noise: Float[Tensor, "b c y x"] | None) -> Float[Tensor, "b c y x"]:
        values = posterior.mode() if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)
        return (values - self._shift) * self.model.config.scaling_factor

    @property
    def _shift(self) -> float:
        return self.model.config.shift_factor or 0.0

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
