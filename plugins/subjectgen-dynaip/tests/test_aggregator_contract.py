"""Every aggregator, with every option, keeps the laws of the kind, with class tokens and without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from subjectgen.core import Features, Modality
from subjectgen.testing import AggregatorContract
from subjectgen_dynaip.fusion import AddFusion, ConcatFusion, SingleLevel
from subjectgen_dynaip.hmoe import HierarchicalExperts

EXPERTS_OPTIONS = [
    {},
    {"router": "per_level", "router_hidden": 3, "levels": (0, 1, -1)},
    {"weights": (0.0, 0.25, 0.75), "expert_dropout": 1.0},
]
LAW = settings(deadline=None, max_examples=25)


def with_options(options: list[dict]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("options", options, ids=lambda chosen: "-".join(chosen) or "default")


def image_only(features: Features) -> Features:
    """The same values as CLIP's vision tower gives them: no text, no pooled vector, no projector."""
    image = features.modality == Modality.IMAGE
    modality = torch.where(image, Modality.IMAGE, Modality.PADDING)
    return replace(features, modality=modality, image_features=None, pooled=None)


class InPlaceContract(AggregatorContract):
    """One context token per token of the encoder, in place."""

    @pytest.fixture
    def aggregator(self, options):
        torch.manual_seed(0)
        return self.component(self.component.Config(**options), **self.runtime)

    def test_tokens_stay_in_place_and_padding_is_zero(self, aggregator):
        @LAW
        @given(features=self.features())
        def law(features):
            conditioning = aggregator(features)
            assert torch.equal(conditioning.mask, features.mask)
            assert conditioning.pooled is None
            assert not conditioning.tokens[~features.mask].any()
            assert conditioning.tokens[features.mask].any(dim=-1).all()

        law()

    def test_references_are_independent(self, aggregator):
        """Other values in one reference change its own tokens, and not one bit of the others'."""

        @LAW
        @given(features=self.features())
        def law(features):
            changed = (features.modality == Modality.IMAGE) & (features.reference == 0)
            states = tuple(torch.where(changed[..., None], 1 - 2 * s.roll(1, -1), s) for s in features.hidden_states)
            before = aggregator(features).tokens
            after = aggregator(replace(features, hidden_states=states)).tokens
            assert torch.equal(after[~changed], before[~changed])
            assert (after[changed] != before[changed]).any(dim=-1).all()

        law()


@with_options(EXPERTS_OPTIONS)
class TestHierarchicalExperts(InPlaceContract):
    component = HierarchicalExperts


@with_options(EXPERTS_OPTIONS)
class TestHierarchicalExpertsOnImagesOnly(InPlaceContract):
    """Features such as a vision tower gives: image tokens and padding."""

    component = HierarchicalExperts

    def features(self, dtype=torch.float32):
        return super().features(dtype).map(image_only)


@with_options([{}, {"mean": True, "levels": (-5, -3, 3)}])
class TestAddFusion(InPlaceContract):
    component = AddFusion


@with_options([{}, {"levels": (0, 1, 2)}])
class TestConcatFusion(InPlaceContract):
    component = ConcatFusion


@with_options([{}, {"level": "low"}, {"level": "mid"}, {"level": -2}])
class TestSingleLevel(InPlaceContract):
    component = SingleLevel


@with_options([{}])
class TestHierarchicalExpertsAtTheSmallestDepth(InPlaceContract):
    """Three hidden states, odd widths, no pooled vector in the backbone."""

    component = HierarchicalExperts
    runtime = {"width": 7, "depth": 3, "context_width": 5, "pooled_width": None}  # noqa: RUF012
