"""Draws from an autoencoder's posterior that follow from what is encoded: the same picture, the same draw.

Shape letters: h w pixels, c latent channels, y x latent pixels.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def seed_of(image: Float[Tensor, "3 h w"]) -> int:
    """A seed that follows from a picture in [0, 1], its size and its values to 8 bits; below 2^63."""
    levels = (image.detach().float().cpu() * 255).round().byte().contiguous()
    digest = hashlib.sha256(repr(tuple(levels.shape)).encode() + levels.numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def noise_of(seed: int, shape: tuple[int, ...]) -> Float[Tensor, "c y x"]:
    """Normal noise drawn on the CPU, so that it is the same for any device of the model."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
