"""Latent images as token sequences. Pure functions.

Shape letters: b batch, c latent channels, h w latent size, n tokens, q channels of a token (patch_size² · c).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError


def token_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of tokens of a latent image.

    Raises:
        InputError: a side that is not a multiple of the patch size.
    """
    if height % patch_size or width % patch_size:
        raise InputError(
            f"latents of {height} x {width} cannot be cut into patches of {patch_size} x {patch_size};"
            f" expected sides that are multiples of {patch_size}"
        )
    return height // patch_size, width // patch_size


def pack_latents(latents: Float[Tensor, "b c h w"], patch_size: int = 2) -> Float[Tensor, "b n q"]:
    """One token per patch, row by row; a token's channels in the order (c, patch row, patch column), as in FLUX."""
    batch, channels, height, width = latents.shape
    rows, columns = token_grid(height, width, patch_size)
    patches = latents.view(batch, channels, rows, patch_size, columns, patch_size).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, rows * columns, channels * patch_size**2)


def unpack_latents(
    tokens: Float[Tensor, "b n q"], grid: tuple[int, int], patch_size: int = 2
) -> Float[Tensor, "b c h w"]:
    """The inverse of :func:`pack_latents`, for tokens of this many rows and columns."""
    batch, _, width = tokens.shape
    (rows, columns), channels = grid, width // patch_size**2
    patches = tokens.view(batch, rows, columns, channels, patch_size, patch_size).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, channels, rows * patch_size, columns * patch_size)
