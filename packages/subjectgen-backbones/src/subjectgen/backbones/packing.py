"""Latent images as token sequences, and where each token is. Pure functions.

Shape letters: b batch, c latent channels, h w latent size, n tokens, q channels of a token (patch_size² · c).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
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


def target_position_ids(
    grid: tuple[int, int], *, offset: tuple[int, int] = (0, 0), device: torch.device | None = None
) -> Float[Tensor, "n 3"]:
    """(0, row, column) of each token, row by row, both counted from ``offset``."""
    row, column = (
        torch.arange(size, dtype=torch.float32, device=device) + start for size, start in zip(grid, offset, strict=True)
    )
    row, column = torch.meshgrid(row, column, indexing="ij")
    return torch.stack((torch.zeros_like(row), row, column), dim=-1).reshape(-1, 3)


def diagonal_position_ids(
    target_grid: tuple[int, int],
    grids: Sequence[tuple[int, int]],
    *,
    shift_rows: bool = True,
    shift_columns: bool = True,
    device: torch.device | None = None,
) -> list[Float[Tensor, "n 3"]]:
    """Position ids of each reference, on the diagonal below the target (UNO, arXiv 2504.02160, section 3.3).

    Reference k (from 0) starts at row H + Σ_{j<k} h_j and column W + Σ_{j<k} w_j, where (H, W) is ``target_grid`` and
    (h_j, w_j) are the ``grids``, all in tokens: no reference shares a row or a column with the target or another one.
    An axis that is not shifted starts at 0.
    """
    row, column = target_grid
    ids = []
    for height, width in grids:
        offset = (row if shift_rows else 0, column if shift_columns else 0)
        ids.append(target_position_ids((height, width), offset=offset, device=device))
        row, column = row + height, column + width
    return ids
