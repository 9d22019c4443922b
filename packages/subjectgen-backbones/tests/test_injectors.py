import pytest
import torch

from subjectgen.backbones.context import ContextInjector
from subjectgen.backbones.packing import pack_latents
from subjectgen.backbones.reference_tokens import ReferenceTokensInjector
from subjectgen.core import ComponentError, Conditioning, Latents, Streams

EMPTY = Streams(target_grid=(2, 3))


def conditioning(width=24, pooled=None):
    return Conditioning(
        tokens=torch.randn(2, 3, width),
        mask=torch.tensor([[True, True, False], [True, True, True]]),
        pooled=None if pooled is None else torch.randn(2, pooled),
    )


def latents(*sizes, channels=4):
    return Latents(values=tuple(torch.randn(2, channels, height, width) for height, width in sizes))


@pytest.fixture
def context(backbone):
    return ContextInjector(ContextInjector.Config(), backbone=backbone)


@pytest.fixture
def reference_tokens(backbone):
    return ReferenceTokensInjector(ReferenceTokensInjector.Config(), backbone=backbone)


def test_context_keeps_tokens_and_mask(context):
    given = conditioning(pooled=12)
    streams = context(EMPTY, given)
    (group,) = streams.context
    assert group.tokens is given.tokens
    assert group.mask is given.mask
    assert (group.role, group.reference, group.grid) == ("context", None, None)
    assert streams.pooled is given.pooled


def test_one_pooled_vector_is_enough(context):
    once = context(EMPTY, conditioning(pooled=12))
    assert context(once, conditioning()).pooled is once.pooled
    with pytest.raises(ComponentError, match="two active branches give a pooled vector"):
        context(once, conditioning(pooled=12))


def test_context_says_both_widths(context):
    with pytest.raises(ComponentError, match="tokens of width 25; the backbone takes width 24"):
        context(EMPTY, conditioning(width=25))
    with pytest.raises(ComponentError, match="pooled vector of width 7; the backbone takes width 12"):
        context(EMPTY, conditioning(pooled=7))


def test_references_of_two_branches_are_numbered_together(reference_tokens):
    first, second = latents((4, 2), (2, 2)), latents((2, 6))
    streams = reference_tokens(reference_tokens(EMPTY, first), second)
    grids = ((2, 1), (1, 1), (1, 3))
    for number, (group, value) in enumerate(zip(streams.references, (*first.values, *second.values), strict=True)):
        assert (group.role, group.reference, group.grid) == ("reference", number, grids[number])
        assert torch.equal(group.tokens, pack_latents(value))
        assert group.mask.all()


def test_a_backbone_without_a_pooled_vector_gets_none(backbone):
    backbone.pooled_width = None
    injector = ContextInjector(ContextInjector.Config(), backbone=backbone)
    assert injector(EMPTY, conditioning()).pooled is None
    with pytest.raises(ComponentError, match="no input for; expected none"):
        injector(EMPTY, conditioning(pooled=12))


def test_reference_tokens_say_both_widths(reference_tokens):
    with pytest.raises(ComponentError, match="latents of 5 channels; the backbone takes 4 channels"):
        reference_tokens(EMPTY, latents((2, 2), channels=5))
