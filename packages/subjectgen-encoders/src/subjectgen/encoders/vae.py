"""FLUX's autoencoder: references as latents, latents back to images.

Shape letters: b batch, h w pixels, c latent channels, y x latent pixels, k references.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from subjectgen.core import CheckpointError, InputError, Latents, Sample
from subjectgen.core.images import fit_image
from subjectgen.encoders.frozen import Frozen, dtype_of
from subjectgen.encoders.loading import CheckpointConfig, check_complete, loading, source, torch_dtype
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
        self.model: Any = _load(config)
        self.width: int = self.model.config.latent_channels
        self.scale_factor: int = 2 ** (len(self.model.config.block_out_channels) - 1)
        """Image pixels per latent pixel along one axis."""
        self.multiple = 2 * self.scale_factor
        """Sides of an image are multiples of this: the backbone packs 2x2 latent pixels into one token."""
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

    @property
    def _shift(self) -> float:
        return self.model.config.shift_factor or 0.0


def _load(config: VAE.Config) -> Any:
    """Read an ``AutoencoderKL`` and refuse another architecture or a file that lacks weights."""
    name, keywords = source(config, config.subfolder)
    keywords["subfolder"] = config.subfolder or None
    with loading("AutoencoderKL", config.checkpoint):
        found = AutoencoderKL.load_config(name, **keywords)
        if found.get("_class_name") != "AutoencoderKL":
            raise CheckpointError(
                f"checkpoint {config.checkpoint!r}, folder {config.subfolder!r} holds a {found.get('_class_name')!r}, "
                "expected an 'AutoencoderKL'"
            )
        model, report = AutoencoderKL.from_pretrained(
            name,
            torch_dtype=torch_dtype(config.dtype),
            use_safetensors=True,
            output_loading_info=True,
            **keywords,
        )
    check_complete(report, config.checkpoint)
    return model
