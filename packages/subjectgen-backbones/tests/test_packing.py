from importlib.util import find_spec

import pytest
import torch
from diffusers import FluxPipeline
from hypothesis import given, settings, strategies as st

from subjectgen.backbones.packing import pack_latents, unpack_latents
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


def test_odd_latents_are_refused():
    with pytest.raises(InputError, match="5 x 6 cannot be cut"):
        pack_latents(torch.zeros(1, 4, 5, 6))
