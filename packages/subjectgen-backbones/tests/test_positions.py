"""Where tokens stand, and that the backbone's option decides it."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from diffusers import FluxPipeline
from hypothesis import given, strategies as st

from subjectgen.backbones.positions import grid_position_ids, reference_position_ids
from subjectgen.backbones.reference_tokens import ReferenceTokensInjector
from subjectgen.core import InputError, Latents
from subjectgen.testing.backbone import make_streams, velocity

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="FluxPipeline is empty without it")

GRID = st.tuples(st.integers(1, 4), st.integers(1, 4))


@needs_transformers
@given(grid=GRID)
def test_target_ids_are_diffusers_own(grid):
    expected = FluxPipeline._prepare_latent_image_ids(1, *grid, torch.device("cpu"), torch.float32)
    assert torch.equal(grid_position_ids(grid), expected)


@given(target=GRID, grids=st.lists(GRID, max_size=4))
def test_reference_ids_are_the_written_formula(target, grids):
    """Token (i, j) of reference k is at (0, H + Σ h_earlier + i, W + Σ w_earlier + j)."""
    for k, ids in enumerate(reference_position_ids(target, grids)):
        row = target[0] + sum(height for height, _ in grids[:k])
        column = target[1] + sum(width for _, width in grids[:k])
        height, width = grids[k]
        expected = [[0.0, row + i, column + j] for i in range(height) for j in range(width)]
        assert ids.tolist() == expected


@given(target=GRID, grids=st.lists(GRID, min_size=1, max_size=4))
def test_on_the_diagonal_nothing_shares_a_row_or_column(target, grids):
    everything = [grid_position_ids(target), *reference_position_ids(target, grids)]
    for axis in (1, 2):
        lines = [set(ids[:, axis].tolist()) for ids in everything]
        assert len(set.union(*lines)) == sum(map(len, lines))


@given(target=GRID, grids=st.lists(GRID, min_size=1, max_size=3))
def test_an_axis_that_is_not_shifted_starts_at_zero(target, grids):
    diagonal = reference_position_ids(target, grids)
    columns_only = reference_position_ids(target, grids, "columns")
    rows_only = reference_position_ids(target, grids, "rows")
    unshifted = reference_position_ids(target, grids, "none")
    for full, rows, columns, none, grid in zip(diagonal, rows_only, columns_only, unshifted, grids, strict=True):
        assert torch.equal(columns[:, 1], none[:, 1])
        assert torch.equal(columns[:, 2], full[:, 2])
        assert torch.equal(rows[:, 1], full[:, 1])
        assert torch.equal(rows[:, 2], none[:, 2])
        assert torch.equal(none, grid_position_ids(grid))


def latents(*sizes):
    return Latents(values=tuple(torch.randn(2, 4, height, width) for height, width in sizes))


def seen_positions(backbone, streams):
    """Positions of context, target and references, as the transformer gets them."""
    seen = {}
    hook = backbone.transformer.pos_embed.register_forward_hook(lambda _, given, __: seen.update(ids=given[0]))
    with torch.no_grad():
        velocity(backbone, streams)
    hook.remove()
    return seen["ids"]


@pytest.mark.parametrize(
    ("offset", "first_corner", "second_corner"),
    [
        ("diagonal", [0, 2, 3], [0, 2 + 2, 3 + 1]),
        ("rows", [0, 2, 0], [0, 2 + 2, 0]),
        ("columns", [0, 0, 3], [0, 0, 3 + 1]),
        ("none", [0, 0, 0], [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("branches", [1, 2])
def test_the_option_places_references_of_all_branches(build, offset, first_corner, second_corner, branches):
    """Context at 0, a 2 x 3 target, then references of 2 x 1 and 1 x 2 tokens, of one branch or of two."""
    backbone = build(reference_offset=offset)
    injector = ReferenceTokensInjector(ReferenceTokensInjector.Config(), backbone=backbone)
    streams = make_streams(backbone, context=2, references=())
    given = [latents((4, 2), (2, 4))] if branches == 1 else [latents((4, 2)), latents((2, 4))]
    for each in given:
        streams = injector(streams, each)
    ids = seen_positions(backbone, streams)
    assert not ids[:2].any()
    assert torch.equal(ids[2:8], grid_position_ids((2, 3)))
    assert [ids[8].tolist(), ids[10].tolist()] == [first_corner, second_corner]


def test_another_offset_is_another_velocity(build):
    streams = make_streams(build(), references=((2, 2), (1, 3)))
    with torch.no_grad():
        found = [
            velocity(build(reference_offset=offset), streams) for offset in ("diagonal", "rows", "columns", "none")
        ]
    for number, one in enumerate(found):
        assert not any(torch.allclose(one, other) for other in found[number + 1 :])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": 1}, r"numbered \[1\]; expected \[0\]"),
        ({"grid": (3, 1)}, "4 tokens and grid"),
        ({"grid": None}, "None"),
    ],
)
def test_groups_that_cannot_be_placed_are_refused(backbone, changes, message):
    streams = make_streams(backbone)
    (group,) = streams.references
    with pytest.raises(InputError, match=message):
        velocity(backbone, replace(streams, references=(replace(group, **changes),)))
