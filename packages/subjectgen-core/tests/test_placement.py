"""Region masks and weights, brought to the target's tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from subjectgen.core import InputError, Placement, Reference, Sample, place_references

IMAGE = torch.zeros(3, 2, 2)
GRID = (2, 3)


def reference(region: Tensor | None = None, weight: float = 1.0, name: str | None = None) -> Reference:
    return Reference(image=IMAGE, region_mask=region, weight=weight, name=name)


def sample(*references: Reference) -> Sample:
    return Sample(references=references)


def whole(rows: int = 2, columns: int = 3) -> Tensor:
    return torch.ones(1, rows, columns)


# -------------------------------------------------------------------------------------------------------- regions


@settings(deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    block=st.integers(1, 5),
    seed=st.integers(0, 99),
    binary=st.booleans(),
)
def test_a_token_gets_the_mean_of_its_pixels(rows: int, columns: int, block: int, seed: int, binary: bool) -> None:
    mask = torch.rand(1, rows * block, columns * block, generator=torch.Generator().manual_seed(seed)) + 1e-3
    mask = (mask > 0.4).float() if binary else mask.clamp(max=1)
    mask[0, 0, 0] = 1
    placement = place_references([sample(reference(mask))], (rows, columns))
    assert placement is not None
    for row in range(rows):
        for column in range(columns):
            pixels = mask[0, row * block : (row + 1) * block, column * block : (column + 1) * block]
            assert float(placement.regions[0, 0, row, column]) == pytest.approx(float(pixels.mean()), abs=1e-6)


def test_an_edge_inside_of_a_token_covers_it_in_part() -> None:
    mask = torch.zeros(1, 8, 12)
    mask[:, :, :5] = 1  # tokens are 4 pixels wide
    placement = place_references([sample(reference(mask))], GRID)
    assert placement.regions[0, 0].tolist() == [[1, 0.25, 0]] * 2


def test_a_mask_coarser_than_the_tokens_is_repeated() -> None:
    """Any resolution is welcome; the ratio is what counts."""
    mask = torch.tensor([[[1.0, 0.0]]])
    placement = place_references([sample(reference(mask))], (2, 4))
    assert placement.regions[0, 0].tolist() == [[1, 1, 0, 0]] * 2


def test_the_mask_itself_stays_as_it_is() -> None:
    mask = torch.rand(1, 4, 6, requires_grad=True)
    before = mask.detach().clone()
    placement = place_references([sample(reference(mask))], GRID)
    assert torch.equal(mask, before)
    assert not placement.regions.requires_grad


def test_overlapping_regions_both_count() -> None:
    placement = place_references([sample(reference(whole()), reference(whole()))], GRID)
    assert placement.regions.sum(dim=1).tolist() == [[[2] * 3] * 2]


# --------------------------------------------------------------------------------------------- rows and weights


def test_nothing_restricted_nothing_weighed_is_no_placement() -> None:
    assert place_references([], GRID) is None
    assert place_references([sample(), sample(reference(), reference())], GRID) is None


def test_references_without_a_mask_speak_everywhere_and_missing_ones_nowhere() -> None:
    """One row restricts, another weighs, one has fewer references and one has none."""
    left = torch.tensor([[[1.0, 0, 0], [1, 0, 0]]])
    rows = [
        sample(reference(left), reference()),
        sample(reference(weight=0.5)),
        sample(),
        sample(reference(weight=-2), reference(left, weight=0)),
    ]
    placement = place_references(rows, GRID)
    nothing, everywhere = torch.zeros(GRID), torch.ones(GRID)
    expected = [[left[0], everywhere], [everywhere, nothing], [nothing, nothing], [everywhere, left[0]]]
    assert torch.equal(placement.regions, torch.stack([torch.stack(row) for row in expected]))
    assert placement.weights.tolist() == [[1, 1], [0.5, 0], [0, 0], [-2, 0]]


def test_a_weight_alone_is_a_placement() -> None:
    placement = place_references([sample(reference(weight=0.3))], GRID)
    assert torch.equal(placement.regions, torch.ones(1, 1, *GRID))
    assert placement.weights.item() == pytest.approx(0.3)


def test_rows_are_chosen_together() -> None:
    samples = [sample(reference(whole() * share, weight=share)) for share in (0.5, 0.75, 1)]
    placement = place_references(samples, GRID)
    chosen = placement.rows(torch.tensor([2, 0, 2]))
    assert isinstance(chosen, Placement)
    assert chosen.weights.squeeze(1).tolist() == chosen.regions[:, 0, 0, 0].tolist() == [1, 0.5, 1]


@given(shares=st.lists(st.floats(0.5, 1, width=16), min_size=1, max_size=4), data=st.data())
def test_rows_do_not_know_each_other(shares: list[float], data: st.DataObject) -> None:
    samples = [sample(*[reference(whole() * share)] * data.draw(st.integers(1, 3))) for share in shares]
    together = place_references(samples, GRID)
    for row, one in enumerate(samples):
        alone = place_references([one], GRID)
        count = len(one.references)
        assert torch.equal(together.regions[row, :count], alone.regions[0])
        assert torch.equal(together.weights[row, :count], alone.weights[0])
        assert not together.weights[row, count:].any()


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize("height", [197, 200, 203])
def test_ratios_that_differ_by_rounding_are_welcome(height: int) -> None:
    assert place_references([sample(reference(whole(height, 300)))], GRID) is not None


WRONG = {
    "the region mask is empty, its highest value is 0; expected 1 inside": reference(whole() * 0),
    "the region mask is empty, its highest value is 0.4": reference(whole() * 0.4),
    "the region mask has values outside": reference(whole() * 1.1),
    "the region mask has values outside [0, 1]; expected 1 inside": reference(whole() - 1.1),
    "the region mask has values outside [0, 1]": reference(whole() * math.nan),
    "is 192x300; expected the aspect ratio of the target, 2:3 (height:width), such as 200x300": reference(
        whole(192, 300)
    ),
    "is 3x2; expected the aspect ratio": reference(whole(3, 2)),
    "weight is nan; expected a finite number": reference(weight=math.nan),
    "weight is -inf; expected a finite number": reference(weight=-math.inf),
}


@pytest.mark.parametrize(("message", "wrong"), WRONG.items(), ids=list(WRONG))
def test_a_mistake_names_sample_and_reference(message: str, wrong: Reference) -> None:
    good = reference(whole())
    named = reference(wrong.region_mask, wrong.weight, "duck")
    for samples, place in (
        ([sample(good, wrong)], "reference 2: "),
        ([sample(good), sample(wrong)], "sample 2, reference 1: "),
        ([sample(good), sample(good, good, named)], "sample 2, reference 3 (duck): "),
    ):
        with pytest.raises(InputError) as caught:
            place_references(samples, GRID)
        assert str(caught.value).startswith(place)
        assert message in str(caught.value)


@pytest.mark.parametrize(("pixels", "tokens"), [(3, 2), (7, 3), (5, 5), (2, 6), (100, 7)])
def test_shares_are_exact_where_sizes_do_not_divide(pixels: int, tokens: int) -> None:
    """By counting on a grid fine enough for both."""
    mask = (torch.rand(1, pixels, pixels, generator=torch.Generator().manual_seed(pixels)) > 0.5).float()
    mask[0, 0, 0] = 1
    sample = Sample(references=(Reference(image=torch.zeros(3, 4, 4), region_mask=mask),))
    place = place_references([sample], (tokens, tokens))
    assert place is not None
    fine = mask[0].repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    counted = fine.unflatten(0, (tokens, pixels)).unflatten(2, (tokens, pixels)).mean(dim=(1, 3))
    torch.testing.assert_close(place.regions[0, 0], counted, rtol=0, atol=1e-6)
    full = place_references(
        [Sample(references=(Reference(image=torch.zeros(3, 4, 4), region_mask=torch.ones(1, pixels, pixels)),))],
        (tokens, tokens),
    )
    assert full is not None
    assert torch.equal(full.regions, torch.ones(1, 1, tokens, tokens)), "exactly 1, for bit-equality"
