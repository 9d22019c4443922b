"""What every finder promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from subjectgen.core import Finder, InputError
from subjectgen.testing.base import Contract

_SETTINGS = settings(deadline=None, max_examples=6)


class FinderContract(Contract):
    """Laws of a finder.

    Give three fixtures: ``finder``; ``picture``, RGB in [0, 1]; ``phrases``, at least two different ones that it finds
    there at different places::

        class TestColours(FinderContract):
            nowhere = "green"

            @pytest.fixture
            def finder(self):
                return Colours(Colours.Config())

            @pytest.fixture
            def phrases(self):
                return ["red", "blue"]
    """

    nowhere: ClassVar[str | None] = None
    """A phrase that it finds nowhere in the picture, if there is one."""
    tolerance: ClassVar[float] = 1e-4
    """Largest difference that counts as equal."""

    def test_is_a_finder(self, finder: Finder) -> None:
        """It has every member of the protocol."""
        assert isinstance(finder, Finder)

    def test_one_mask_per_phrase(self, finder: Finder, picture: Tensor, phrases: Sequence[str]) -> None:
        """Of the picture's size and on its device, in [0, 1], none of them empty; also for one phrase alone."""
        for wanted in (phrases, phrases[:1]):
            masks = finder.find(picture, wanted)
            assert masks.shape == (len(wanted), *picture.shape[1:])
            assert masks.is_floating_point()
            assert masks.device == picture.device
            assert 0 <= masks.min() <= masks.max() <= 1
            assert (masks.amax(dim=(1, 2)) > 0.5).all()

    def test_each_phrase_has_its_own_place(self, finder: Finder, picture: Tensor, phrases: Sequence[str]) -> None:
        """Different phrases are found at different places, or the next law would say nothing."""
        assert len(set(phrases)) == len(phrases) >= 2
        masks = finder.find(picture, phrases)
        for number, mask in enumerate(masks):
            assert all(not torch.allclose(mask, other, atol=self.tolerance) for other in masks[:number])

    def test_masks_are_in_the_order_of_the_phrases(
        self, finder: Finder, picture: Tensor, phrases: Sequence[str]
    ) -> None:
        """Asked in another order it gives the same masks in that order."""
        masks = finder.find(picture, phrases)

        @_SETTINGS
        @given(order=st.permutations(range(len(phrases))))
        def law(order: list[int]) -> None:
            found = finder.find(picture, [phrases[place] for place in order])
            torch.testing.assert_close(found, masks[order], atol=self.tolerance, rtol=0)

        law()

    def test_same_question_same_answer(self, finder: Finder, picture: Tensor, phrases: Sequence[str]) -> None:
        """Nothing is drawn at random, and the picture is left as it is."""
        before = picture.clone()
        first = finder.find(picture, phrases)
        assert torch.equal(finder.find(picture, phrases), first)
        assert torch.equal(picture, before)

    def test_no_phrases_no_masks(self, finder: Finder, picture: Tensor) -> None:
        """Nothing asked for: no masks, of the picture's size."""
        assert finder.find(picture, []).shape == (0, *picture.shape[1:])

    def test_blank_phrases_are_refused(self, finder: Finder, picture: Tensor, phrases: Sequence[str]) -> None:
        """Alone or among others."""
        for blank in ("", "   "):
            for wanted in ([blank], [phrases[0], blank]):
                with pytest.raises(InputError):
                    finder.find(picture, wanted)

    def test_what_is_found_nowhere_is_named(self, finder: Finder, picture: Tensor, phrases: Sequence[str]) -> None:
        """The error says which of the phrases it is."""
        if self.nowhere is None:
            pytest.skip("there is no phrase that it finds nowhere")
        with pytest.raises(InputError) as caught:
            finder.find(picture, [phrases[0], self.nowhere])
        assert self.nowhere in str(caught.value)
        assert phrases[0] not in str(caught.value)
