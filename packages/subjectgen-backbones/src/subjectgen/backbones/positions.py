"""Where FLUX's tokens stand in position space: (axis 0, row, column) of each. Pure functions.

Context tokens are at (0, 0, 0), the target at (0, row, column), references where :data:`ReferenceOffset` says.

Shape letters: n tokens of one group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.backbones.options import ReferenceOffset
from subjectgen.core import InputError, TokenGroup


def grid_position_ids(
    grid: tuple[int, int], *, offset: tuple[int, int] = (0, 0), device: torch.device | None = None
) -> Float[Tensor, "n 3"]:
    """(0, row, column) of each token, row by row, both counted from ``offset``."""
    row, column = (
        torch.arange(size, dtype=torch.float32, device=device) + start for size, start in zip(grid, offset, strict=True)
    )
    row, column = torch.meshgrid(row, column, indexing="ij")
    return torch.stack((torch.zeros_like(row), row, column), dim=-1).reshape(-1, 3)


def reference_position_ids(
    target_grid: tuple[int, int],
    grids: Sequence[tuple[int, int]],
    offset: ReferenceOffset = "diagonal",
    *,
    device: torch.device | None = None,
) -> list[Float[Tensor, "n 3"]]:
    """Position ids of each reference, by default on the diagonal below the target (UNO, arXiv 2504.02160, 3.3).

    Reference k (from 0) starts at row H + Σ_{j<k} h_j and column W + Σ_{j<k} w_j, where (H, W) is ``target_grid`` and
    (h_j, w_j) are the ``grids``, all in tokens: no reference shares a row or a column with the target or another one.
    An axis that is not shifted starts at 0.
    """
    row, column = target_grid
    ids = []
    for height, width in grids:
        start = (row if offset in ("diagonal", "rows") else 0, column if offset in ("diagonal", "columns") else 0)
        ids.append(grid_position_ids((height, width), offset=start, device=device))
        row, column = row + height, column + width
    return ids


def numbered_grids(groups: Sequence[TokenGroup]) -> list[tuple[int, int]]:
    """Grids of groups of references, by their numbers.

    Raises:
        InputError: a group without a grid or of another number of tokens, or groups that are not numbered 0, 1, 2, ...
    """
    numbers = [group.reference for group in groups]
    if numbers != list(range(len(groups))):
        raise InputError(f"groups of references are numbered {numbers}; expected {list(range(len(groups)))}")
    grids = []
    for group in groups:
        grid, count = group.grid, group.tokens.shape[1]
        if grid is None or grid[0] * grid[1] != count:
            raise InputError(f"reference {group.reference} has {count} tokens and grid {grid}; expected rows x columns")
        grids.append(grid)
    return grids
