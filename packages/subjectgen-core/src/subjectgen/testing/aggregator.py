"""What every aggregator promises."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from subjectgen.core import Aggregator, Conditioning, Features, Modality
from subjectgen.testing.base import Contract
from subjectgen.testing.strategies import TEXT, Row, features_strategy, make_features

_SETTINGS = settings(deadline=None, max_examples=25, report_multiple_bugs=False)


class AggregatorContract(Contract):
    """Laws of an aggregator.

    Give a fixture ``aggregator``, an ``nn.Module`` built for the sizes in ``runtime``::

        class TestMean(AggregatorContract):
            @pytest.fixture
            def aggregator(self):
                return Mean(Mean.Config(), **self.runtime)

    Override ``runtime`` if these sizes do not suit, ``features`` and ``make_features`` if the encoder it is made for
    gives features of a narrower kind than a multimodal LLM's.
    """

    runtime: ClassVar[dict[str, Any]] = {"width": 16, "depth": 5, "context_width": 12, "pooled_width": 6}
    """Channels of the hidden states, number of them, channels of the context tokens, width of the pooled vector or
    ``None`` for a backbone that takes none."""

    def features(self, dtype: torch.dtype = torch.float32) -> st.SearchStrategy[Features]:
        """Features the laws are tried on."""
        return features_strategy(
            self.runtime["width"], self.runtime["depth"], pooled_width=self.runtime["pooled_width"], dtype=dtype
        )

    def make_features(self, rows: Collection[Row], *, padding: int = 0) -> Features:
        """Features with just these tokens."""
        width, depth, pooled_width = (self.runtime[name] for name in ("width", "depth", "pooled_width"))
        return make_features(rows, width=width, depth=depth, pooled_width=pooled_width, padding=padding)

    @pytest.fixture(autouse=True)
    def _inference(self, aggregator: nn.Module) -> None:
        """All laws but those on gradients hold at inference; training may draw random numbers."""
        aggregator.eval()

    def test_is_an_aggregator(self, aggregator: Aggregator) -> None:
        """It is a module with every member of the protocol; its layers are sorted and inside the model."""
        assert isinstance(aggregator, nn.Module)
        assert isinstance(aggregator, Aggregator)
        assert list(aggregator.layers) == sorted(set(aggregator.layers))
        assert set(aggregator.layers) <= set(range(self.runtime["depth"]))

    def test_shapes_are_as_promised(self, aggregator: Aggregator) -> None:
        """Tokens (b, l, d) with the promised width, a mask (b, l), and if any a pooled vector (b, p); none for a
        backbone that takes none.
        """

        @_SETTINGS
        @given(features=self.features())
        def law(features: Features) -> None:
            conditioning = aggregator(features)
            rows = len(features.modality)
            assert conditioning.tokens.shape == (*conditioning.mask.shape, self.runtime["context_width"])
            assert len(conditioning.mask) == rows
            assert conditioning.mask.dtype == torch.bool
            assert conditioning.pooled is None or conditioning.pooled.shape == (rows, self.runtime["pooled_width"])

        law()

    def test_reference_of_each_token_is_kept(self, aggregator: Aggregator) -> None:
        """Every valid token says which reference it tells of, as the features do; tokens may only be left out."""

        @_SETTINGS
        @given(features=self.features())
        def law(features: Features) -> None:
            conditioning = aggregator(features)
            assert conditioning.reference is not None
            assert conditioning.reference.shape == conditioning.mask.shape
            for row, (given_row, kept_row) in enumerate(zip(features.mask, conditioning.mask, strict=True)):
                expected = iter(features.reference[row][given_row].tolist())
                found = conditioning.reference[row][kept_row].tolist()
                assert all(number in expected for number in found)  # takes from the iterator: in this order

        law()

    def test_value_of_padding_does_not_matter(self, aggregator: Aggregator) -> None:
        """Huge values at padded positions change nothing."""

        @_SETTINGS
        @given(features=self.features())
        def law(features: Features) -> None:
            _assert_same(aggregator(_map_states(features, _spoil_padding(features))), aggregator(features))

        law()

    def test_amount_and_side_of_padding_do_not_matter(self, aggregator: Aggregator) -> None:
        """More padding on either side changes nothing."""

        @_SETTINGS
        @given(features=self.features(), left=st.integers(0, 2), right=st.integers(0, 2))
        def law(features: Features, left: int, right: int) -> None:
            _assert_same(aggregator(_padded(features, left, right)), aggregator(features))

        law()

    def test_rows_are_independent(self, aggregator: Aggregator) -> None:
        """A row alone gives what it gives in a batch."""

        @_SETTINGS
        @given(features=self.features(), data=st.data())
        def law(features: Features, data: st.DataObject) -> None:
            row = data.draw(st.integers(0, len(features.modality) - 1))
            together = aggregator(features)
            pooled = None if together.pooled is None else together.pooled[row : row + 1]
            expected = Conditioning(
                tokens=together.tokens[row : row + 1], mask=together.mask[row : row + 1], pooled=pooled
            )
            _assert_same(aggregator(_only_row(features, row)), expected)

        law()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_dtype_and_device_are_kept(self, aggregator: Aggregator, dtype: torch.dtype) -> None:
        """Whatever the parameters' dtype, tokens and pooled vector come in the features' dtype, on their device."""

        @_SETTINGS
        @given(features=self.features(dtype))
        def law(features: Features) -> None:
            conditioning = aggregator(features)
            given_tensors = [conditioning.tokens, conditioning.pooled]
            for tensor in (tensor for tensor in given_tensors if tensor is not None):
                assert tensor.dtype == dtype
                assert tensor.device == features.modality.device

        law()

    def test_gradients_are_finite(self, aggregator: Aggregator) -> None:
        """In training, for parameters and features, even where all is zero or nothing is valid."""
        assert isinstance(aggregator, nn.Module)
        aggregator.train()

        @_SETTINGS
        @given(features=self.features(), scale=st.sampled_from([1.0, 0.0]))
        def law(features: Features, scale: float) -> None:
            features = _map_states(features, lambda states: (scale * states).requires_grad_())
            aggregator.zero_grad()
            conditioning = aggregator(features)
            loss = conditioning.tokens.square().sum()
            loss = loss if conditioning.pooled is None else loss + conditioning.pooled.square().sum()
            if loss.requires_grad:
                loss.backward()
            leaves = [*aggregator.parameters(), *_states(features)]
            assert all(leaf.grad.isfinite().all() for leaf in leaves if leaf.grad is not None)

        law()

    def test_state_dict_round_trip(self, aggregator: Aggregator) -> None:
        """Another instance with the loaded state does the same."""
        assert isinstance(aggregator, nn.Module)
        other = copy.deepcopy(aggregator)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.normal_()
        other.load_state_dict(aggregator.state_dict())

        @_SETTINGS
        @given(features=self.features())
        def law(features: Features) -> None:
            _assert_same(other(features), aggregator(features))

        law()

    @pytest.mark.parametrize("padding", [0, 3])
    def test_no_valid_token_is_defined(self, aggregator: Aggregator, padding: int) -> None:
        """Rows that are all padding, and rows of length zero, give finite values."""
        conditioning = aggregator(self.make_features([[], []], padding=padding))
        assert len(conditioning.tokens) == 2
        assert conditioning.tokens.isfinite().all()
        assert conditioning.pooled is None or conditioning.pooled.isfinite().all()

    def test_inference_is_deterministic(self, aggregator: Aggregator) -> None:
        """The same features give the same conditioning, bit by bit."""

        @_SETTINGS
        @given(features=self.features())
        def law(features: Features) -> None:
            first, second = aggregator(features), aggregator(features)
            assert torch.equal(first.tokens, second.tokens)
            assert (first.pooled is None) == (second.pooled is None)
            if first.pooled is not None and second.pooled is not None:
                assert torch.equal(first.pooled, second.pooled)

        law()

    @pytest.mark.parametrize("references", range(4))
    def test_any_number_of_references(self, aggregator: Aggregator, references: int) -> None:
        """From no reference to three, with the prompt before and after."""
        row = [TEXT, *(k for k in range(references) for _ in range(2)), TEXT]
        conditioning = aggregator(self.make_features([row]))
        assert conditioning.mask.any()
        assert conditioning.tokens[conditioning.mask].isfinite().all()

    def test_reads_only_its_layers(self, aggregator: Aggregator) -> None:
        """Hidden states outside ``layers`` may be missing."""

        @_SETTINGS
        @given(features=self.features())
        def law(features: Features) -> None:
            kept = tuple(s if i in aggregator.layers else None for i, s in enumerate(features.hidden_states))
            _assert_same(aggregator(replace(features, hidden_states=kept)), aggregator(features))

        law()


def _assert_same(actual: Conditioning, expected: Conditioning) -> None:
    """Equal valid tokens, row by row in order, and equal pooled vectors; padding may differ."""
    assert torch.equal(actual.mask.sum(dim=1), expected.mask.sum(dim=1))
    torch.testing.assert_close(actual.tokens[actual.mask], expected.tokens[expected.mask], rtol=1e-4, atol=1e-5)
    assert (actual.pooled is None) == (expected.pooled is None)
    if actual.pooled is not None:
        torch.testing.assert_close(actual.pooled, expected.pooled, rtol=1e-4, atol=1e-5)


def _states(features: Features) -> Sequence[Tensor]:
    states = [*features.hidden_states, features.image_features]
    return [state for state in states if state is not None]


def _map_states(features: Features, change: Callable[[Tensor], Tensor], **others: Any) -> Features:
    """Apply a change to every tensor (b, l, c), and replace others at once: no half-changed shapes in between."""
    return replace(
        features,
        hidden_states=tuple(None if state is None else change(state) for state in features.hidden_states),
        image_features=None if features.image_features is None else change(features.image_features),
        **others,
    )


def _spoil_padding(features: Features) -> Callable[[Tensor], Tensor]:
    return lambda states: torch.where(features.mask[..., None], states, 1e4 * (states + 1))


def _padded(features: Features, left: int, right: int) -> Features:
    def pad(values: Tensor, value: int) -> Tensor:
        return nn.functional.pad(values, (left, right), value=value)

    return _map_states(
        features,
        lambda states: pad(states.mT, 7).mT,
        modality=pad(features.modality, Modality.PADDING),
        reference=pad(features.reference, -1),
        class_token=None if features.class_token is None else pad(features.class_token, 0),
    )


def _only_row(features: Features, row: int) -> Features:
    chosen = slice(row, row + 1)
    return _map_states(
        features,
        lambda states: states[chosen],
        modality=features.modality[chosen],
        reference=features.reference[chosen],
        class_token=None if features.class_token is None else features.class_token[chosen],
        pooled=None if features.pooled is None else features.pooled[chosen],
    )
