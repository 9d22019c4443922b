from importlib.util import find_spec

import pytest
import torch
from diffusers import FluxPipeline
from hypothesis import given, settings, strategies as st

from subjectgen.backbones.packing import (
    diagonal_position_ids,
    pack_latents,
    target_position_ids,
    unpack_latents,
)
from subjectgen.core import InputError

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="FluxPipeline is empty without it")

GRID = st.tuples(st.integers(1, 4), st.integers(1, 4))


@needs_transformers
@settings(deadline=None)
@given(grid=GRID, batch=st.integers(1, 3), channels=st.integers(1, 4))
def test_packing_is_diffusers_own_and_is_undone(grid, batch, channels):
    height, width = grid[0] * 2, grid[1] * 2
    latents = torch.arange(batch * channels * height * width, dtype=torch.float32).view(batch, channels, height, width)
    packed = pack_latents(latents)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, batch, channels, height, width))
    assert torch.equal(unpack_latents(packed, grid), latents)


@given(grid=GRID, patch_size=st.integers(1, 3))
def test_any_patch_size_is_undone(grid, patch_size):
    latents = torch.randn(1, 2, grid[0] * patch_size, grid[1] * patch_size)
    packed = pack_latents(latents, patch_size)
    assert packed.shape == (1, grid[0] * grid[1], 2 * patch_size**2)
    assert torch.equal(unpack_latents(packed, grid, patch_size), latents)


@needs_transformers
@given(grid=GRID)
def test_target_ids_are_diffusers_own(grid):
    expected = FluxPipeline._prepare_latent_image_ids(1, *grid, torch.device("cpu"), torch.float32)
    assert torch.equal(target_position_ids(grid), expected)


@given(target=GRID, grids=st.lists(GRID, max_size=4))
def test_reference_ids_are_the_written_formula(target, grids):
    """Token (i, j) of reference k is at (0, H + Σ h_earlier + i, W + Σ w_earlier + j)."""
    for k, ids in enumerate(diagonal_position_ids(target, grids)):
        row = target[0] + sum(height for height, _ in grids[:k])
        column = target[1] + sum(width for _, width in grids[:k])
        height, width = grids[k]
        expected = [[0.0, row + i, column + j] for i in range(height) for j in range(width)]
        assert ids.tolist() == expected


@given(target=GRID, grids=st.lists(GRID, min_size=1, max_size=4))
def test_on_the_diagonal_nothing_shares_a_row_or_column(target, grids):
    everything = [target_position_ids(target), *diagonal_position_ids(target, grids)]
    for axis in (1, 2):
        lines = [set(ids[:, axis].tolist()) for ids in everything]
        assert len(set.union(*lines)) == sum(map(len, lines))


@given(target=GRID, grids=st.lists(GRID, min_size=1, max_size=3))
def test_an_axis_that_is_not_shifted_starts_at_zero(target, grids):
    diagonal = diagonal_position_ids(target, grids)
    rows_only = diagonal_position_ids(target, grids, shift_columns=False)
    unshifted = diagonal_position_ids(target, grids, shift_rows=False, shift_columns=False)
    for full, rows, none, grid in zip(diagonal, rows_only, unshifted, grids, strict=True):
        assert torch.equal(rows[:, 1], full[:, 1])
        assert torch.equal(rows[:, 2], none[:, 2])
        assert torch.equal(none, target_position_ids(grid))


def test_odd_latents_are_refused():
    with pytest.raises(InputError, match="5 x 6 cannot be cut"):
        pack_latents(torch.zeros(1, 4, 5, 6))
