"""Region masks and weights of references, brought to the target's tokens.

A region mask is a picture of the target: any resolution, the target's aspect ratio. It is averaged over each token,
so a token on its border is covered in part; whoever wants it binary cuts at one half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core.errors import InputError
from subjectgen.core.masks import check_mask
from subjectgen.core.samples import Reference, Sample
from subjectgen.core.streams import Placement

RATIO_TOLERANCE = 0.02
"""How far a mask's aspect ratio may be from the target's, as a share: rounding to whole pixels."""


def place_references(samples: Sequence[Sample], target_grid: tuple[int, int]) -> Placement | None:
    """Where each reference speaks; ``None`` if no sample restricts or weighs any.

    Args:
        samples: One per row.
        target_grid: Rows and columns of the target in backbone tokens.

    Raises:
        InputError: A mask that selects nothing, is not finite, outside [0, 1] or of another aspect ratio, or a weight
            that is not finite. Names the sample and the reference.
    """
    if not any(
        reference.region_mask is not None or reference.weight != 1.0 for s in samples for reference in s.references
    ):
        return None
    count = max(len(sample.references) for sample in samples)
    regions = torch.zeros(len(samples), count, *target_grid)
    weights = torch.zeros(len(samples), count)
    for row, sample in enumerate(samples):
        for number, reference in enumerate(sample.references):
            place = _place(row, number, reference, len(samples))
            regions[row, number] = _region(reference, target_grid, place)
            weights[row, number] = _weight(reference, place)
    return Placement(regions=regions, weights=weights)


def _region(reference: Reference, grid: tuple[int, int], place: str) -> Float[Tensor, "rows columns"]:
    mask = reference.region_mask
    if mask is None:
        return torch.ones(grid)
    mask = check_mask(mask.detach().float().cpu(), f"{place}: the region mask")
    height, width = mask.shape[-2:]
    ratio = (height / width) / (grid[0] / grid[1])
    if abs(ratio - 1) > RATIO_TOLERANCE:
        raise InputError(
            f"{place}: the region mask is {height}x{width}; expected the aspect ratio of the target, "
            f"{grid[0]}:{grid[1]} (height:width), such as {round(width * grid[0] / grid[1])}x{width}"
        )
    shares = _overlaps(height, grid[0]) @ mask[0].double() @ _overlaps(width, grid[1]).T
    return shares.round(decimals=6).float()  # a full mask is exactly 1


def _overlaps(pixels: int, tokens: int) -> Float[Tensor, "tokens pixels"]:
    """Share of each token that each pixel covers along one axis; exact also where the numbers do not divide."""
    edges = torch.arange(tokens + 1, dtype=torch.float64) * pixels / tokens
    left = torch.arange(pixels, dtype=torch.float64)
    shared = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    return shared.clamp(min=0) * tokens / pixels


def _weight(reference: Reference, place: str) -> float:
    weight: object = reference.weight
    if not isinstance(weight, Real) or not math.isfinite(weight):  # Real: also NumPy's numbers
        raise InputError(f"{place}: weight is {weight}; expected a finite number")
    return float(weight)


def _place(row: int, number: int, reference: Reference, rows: int) -> str:
    name = f" ({reference.name})" if reference.name else ""
    return f"{f'sample {row + 1}, ' if rows > 1 else ''}reference {number + 1}{name}"
