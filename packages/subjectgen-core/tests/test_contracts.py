"""The small algebra of what branches see."""

from __future__ import annotations

import torch
from hypothesis import given, strategies as st

from subjectgen.core import (
    EVERYTHING,
    NOTHING,
    ActiveBranches,
    Features,
    Modality,
    Reference,
    Sample,
    Visibility,
)

VISIBILITY = st.builds(Visibility, st.booleans(), st.booleans())
TABLES = st.dictionaries(st.sampled_from("abcd"), VISIBILITY)


@given(VISIBILITY, VISIBILITY, VISIBILITY)
def test_visibility_is_a_lattice(a: Visibility, b: Visibility, c: Visibility) -> None:
    assert a & b == b & a
    assert (a & b) & c == a & (b & c)
    assert a & a == a
    assert a & EVERYTHING == a
    assert (a & NOTHING).nothing


@given(TABLES, TABLES, st.sampled_from(["drop", "zero"]))
def test_restriction_only_takes_away(
    visibility: dict[str, Visibility], by: dict[str, Visibility], inactive: str
) -> None:
    active = ActiveBranches(visibility=visibility, inactive=inactive)  # type: ignore[arg-type]
    restricted = active.restricted(by)
    assert restricted.names <= active.names
    assert restricted.restricted(by) == restricted
    assert restricted.inactive == inactive
    assert active.restricted({}) == active
    for name, seen in restricted.visibility.items():
        assert seen == visibility[name] & by.get(name, EVERYTHING)


@given(VISIBILITY, VISIBILITY)
def test_seeing_twice_is_seeing_what_both_allow(first: Visibility, second: Visibility) -> None:
    sample = Sample(prompt="a toy", references=(Reference(image=torch.zeros(3, 2, 2)),))
    twice, both = sample.seen(first).seen(second), sample.seen(first & second)
    assert (twice.prompt, twice.references) == (both.prompt, both.references)
    assert bool(sample.seen(first).prompt) == first.text
    assert bool(sample.seen(first).references) == first.references


def test_the_mask_of_features_follows_modality() -> None:
    modality = torch.tensor([[Modality.TEXT, Modality.IMAGE, Modality.PADDING]])
    features = Features(
        hidden_states=(torch.zeros(1, 3, 2),) * 4, modality=modality, reference=torch.tensor([[-1, 0, -1]])
    )
    assert features.mask.tolist() == [[True, True, False]]
    assert features.depth == 4
