"""The kit that aggregators are built from: places of tokens, and what the base refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from subjectgen.core import ComponentError, Features, Modality
from subjectgen.core.aggregating import TokenAggregator, TokenPlaces
from subjectgen.testing import features_strategy

LAW = settings(deadline=None, max_examples=30)


class Copy(TokenAggregator):
    """Takes its last layer as it is."""

    def condition(self, features: Features, places: TokenPlaces) -> tuple[Tensor, None]:
        """Nothing is changed."""
        return self.gather(features, self.layers[-1], places), None


@LAW
@given(features=features_strategy(3, 2))
def test_scattering_what_was_gathered_keeps_valid_tokens_and_zeroes_padding(features: Features) -> None:
    places, states = TokenPlaces.of(features), features.hidden_states[0]
    assert states is not None
    assert torch.equal(places.scatter(places.gather(states)), states * features.mask[..., None])


@LAW
@given(features=features_strategy(3, 2))
def test_places_are_text_first_and_each_modality_has_its_own(features: Features) -> None:
    places = TokenPlaces.of(features)
    here = features.modality.flatten()[places.index].tolist()
    assert here == sorted(here)
    for modality in (Modality.TEXT, Modality.IMAGE):
        own = places.only(modality).index.tolist()
        assert own == (features.modality.flatten() == modality).nonzero().flatten().tolist()
        assert places.only(modality).only(modality).index.tolist() == own


@LAW
@given(features=features_strategy(3, 2))
def test_mean_is_of_each_row_and_zero_without_tokens(features: Features) -> None:
    places, states = TokenPlaces.of(features), features.hidden_states[1]
    assert states is not None
    for row, mean in enumerate(places.mean(places.gather(states))):
        own = states[row][features.mask[row]]
        torch.testing.assert_close(mean, own.mean(dim=0) if len(own) else torch.zeros(3))


@LAW
@given(features=features_strategy(3, 2))
def test_the_base_puts_tokens_in_place_with_their_reference(features: Features) -> None:
    conditioning, states = Copy([1], width=3, depth=2)(features), features.hidden_states[1]
    assert states is not None
    assert torch.equal(conditioning.tokens, states * features.mask[..., None])
    assert torch.equal(conditioning.mask, features.mask)
    assert torch.equal(conditioning.reference, features.reference)
    assert conditioning.pooled is None


@given(layers=st.sets(st.integers(-2, 6)))
def test_layers_that_the_encoder_lacks_are_refused(layers: set[int]) -> None:
    if layers and layers <= set(range(4)):
        assert Copy(layers, width=3, depth=4).layers == tuple(sorted(layers))
    else:
        with pytest.raises(ComponentError, match=r"layers: got \[.*\]; expected some of .* hidden states, 0-3"):
            Copy(layers, width=3, depth=4)
