"""What every injector promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from subjectgen.core import (
    AttentionAddition,
    AttentionLayout,
    Backbone,
    Conditioning,
    Injector,
    Latents,
    Streams,
    SubjectgenError,
)
from subjectgen.testing.backbone import assert_same, make_streams, velocity, wake
from subjectgen.testing.base import Contract


class InjectorContract(Contract):
    """Laws of an injector, checked through a small backbone.

    Give fixtures ``backbone`` (small, float32, on the CPU) and ``injector`` (built for that backbone). Override
    :meth:`make_conditioning` if the injector takes tokens of another width than the backbone's context.
    """

    def make_conditioning(
        self, injector: Injector, backbone: Backbone, *, tokens: int = 3, extra_width: int = 0, seed: int = 2
    ) -> Conditioning | Latents:
        """Random conditioning of two rows, as the injector accepts it.

        Args:
            injector: for what it accepts.
            backbone: for its widths.
            tokens: number of tokens; for latents, number of references.
            extra_width: how much wider than right, to make what must be refused.
            seed: of all values.
        """
        generator = torch.Generator().manual_seed(seed)
        if injector.accepts is Latents:
            channels, size = backbone.latent_channels + extra_width, 2 * backbone.patch_size
            return Latents(
                values=tuple(torch.randn(2, channels, size, size, generator=generator) for _ in range(tokens))
            )
        width = getattr(injector, "width", backbone.context_width)
        values = torch.randn(2, tokens, width + extra_width, generator=generator)
        return Conditioning(tokens=values, mask=torch.ones(2, tokens, dtype=torch.bool))

    def test_is_an_injector(self, injector: Injector) -> None:
        """It is a module with every member of the protocol."""
        assert isinstance(injector, nn.Module)
        assert isinstance(injector, Injector)
        assert injector.accepts in (Conditioning, Latents)

    def test_streams_only_grow(self, injector: Injector, backbone: Backbone) -> None:
        """What was there stays, in its order, new groups say what they are, and the given streams are not changed."""
        before = make_streams(backbone)
        groups = before.context, before.references
        after = injector(before, self.make_conditioning(injector, backbone))
        assert (before.context, before.references) == groups
        assert after.target_grid == before.target_grid
        assert after.context[: len(before.context)] == before.context
        assert after.references[: len(before.references)] == before.references
        assert after.pooled is before.pooled
        assert after.attention[: len(before.attention)] == before.attention
        assert all(group.role == "context" for group in after.context)
        assert [group.reference for group in after.references] == list(range(len(after.references)))
        for group in after.references:
            assert group.role == "reference"
            assert group.grid is not None
            assert group.grid[0] * group.grid[1] == group.tokens.shape[1]

    def test_the_backbone_takes_the_result(self, injector: Injector, backbone: Backbone) -> None:
        """Alone, and after other conditioning, with a velocity of the usual shape."""
        for start in (make_streams(backbone), _bare(make_streams(backbone))):
            with torch.no_grad():
                expected = velocity(backbone, start)
                result = velocity(backbone, injector(start, self.make_conditioning(injector, backbone)))
            assert result.shape == expected.shape
            assert result.isfinite().all()

    def test_conditioning_is_used(self, injector: Injector, backbone: Backbone) -> None:
        """The velocity of every row depends on it, also when two branches share the injector."""
        _wake_both(injector, backbone)
        first, second = (self.make_conditioning(injector, backbone, seed=seed) for seed in (2, 3))
        inputs = [*_tensors(first), *_tensors(second)]
        for tensor in inputs:
            tensor.requires_grad_(True)
        streams = injector(injector(_bare(make_streams(backbone)), first), second)
        torch.autograd.backward(velocity(backbone, streams).square().sum())
        for tensor in inputs:
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
            assert tensor.grad.flatten(1).any(dim=1).all()

    def test_nothing_to_inject_is_absent(self, injector: Injector, backbone: Backbone) -> None:
        """No tokens, no references, or tokens that are all masked: as if the injector had not been called."""
        _wake_both(injector, backbone)
        streams = make_streams(backbone)
        empty = [self.make_conditioning(injector, backbone, tokens=0)]
        full = self.make_conditioning(injector, backbone)
        if isinstance(full, Conditioning):
            empty.append(replace(full, mask=torch.zeros_like(full.mask)))
        with torch.no_grad():
            absent = velocity(backbone, streams)
            for conditioning in empty:
                assert_same(velocity(backbone, injector(streams, conditioning)), absent)

    def test_masked_tokens_never_matter(self, injector: Injector, backbone: Backbone) -> None:
        """A masked token may hold anything."""
        _wake_both(injector, backbone)
        conditioning = self.make_conditioning(injector, backbone)
        if not isinstance(conditioning, Conditioning):
            pytest.skip("latents have no mask")
        mask = conditioning.mask.clone()
        mask[0, 0] = mask[1, -1] = False
        padded = replace(conditioning, mask=mask)
        disturbed = replace(padded, tokens=torch.where(mask[..., None], padded.tokens, padded.tokens + 50.0))
        with torch.no_grad():
            before, after = (velocity(backbone, injector(make_streams(backbone), c)) for c in (padded, disturbed))
        assert_same(after, before)

    def test_the_order_of_the_sequence_does_not_matter(self, injector: Injector, backbone: Backbone) -> None:
        """What is added in attentions follows the layout: a family may have its target first, or its text last."""
        _wake_both(injector, backbone)
        streams = make_streams(backbone)
        additions = injector(streams, self.make_conditioning(injector, backbone)).attention
        target = streams.target_grid[0] * streams.target_grid[1]

        @settings(deadline=None, max_examples=20)
        @given(
            order=st.permutations([0, 1, 2]),
            sizes=st.tuples(st.integers(0, 3), st.just(target), st.integers(0, 3)),
            gradients=st.booleans(),
        )
        def law(order: list[int], sizes: tuple[int, int, int], gradients: bool) -> None:
            for site, where in enumerate(backbone.attention_sites if additions else ()):
                generator = torch.Generator().manual_seed(site)
                shape = (2, sum(sizes), where.heads, where.head_width)
                query, output = (torch.randn(shape, generator=generator) for _ in range(2))
                with torch.set_grad_enabled(gradients):
                    expected = _added(additions, site, query, output, sizes, [0, 1, 2])
                    assert_same(_added(additions, site, query, output, sizes, order), expected)

        law()

    def test_a_wrong_width_is_refused(self, injector: Injector, backbone: Backbone) -> None:
        """With an error of ours that a user can read, not deep inside the backbone."""
        wrong = self.make_conditioning(injector, backbone, extra_width=1)
        with pytest.raises(SubjectgenError, match=r"\d+.*\d+"):
            injector(make_streams(backbone), wrong)

    def test_the_other_kind_of_conditioning_is_refused(self, injector: Injector, backbone: Backbone) -> None:
        """Tokens where latents are expected, or latents where tokens are."""
        other: Conditioning | Latents = Latents(values=())
        if injector.accepts is Latents:
            other = Conditioning(
                tokens=torch.zeros(2, 1, backbone.context_width), mask=torch.ones(2, 1, dtype=torch.bool)
            )
        with pytest.raises(SubjectgenError, match="expected"):
            injector(make_streams(backbone), other)


def _bare(streams: Streams) -> Streams:
    return Streams(target_grid=streams.target_grid)


def _tensors(conditioning: Conditioning | Latents) -> tuple[Tensor, ...]:
    return conditioning.values if isinstance(conditioning, Latents) else (conditioning.tokens,)


def _wake_both(injector: Injector, backbone: Backbone) -> None:
    for module in (injector, backbone):
        assert isinstance(module, nn.Module)
        wake(module)


def _added(
    additions: Sequence[AttentionAddition],
    site: int,
    query: Tensor,
    output: Tensor,
    sizes: tuple[int, int, int],
    order: list[int],
) -> Tensor:
    """What additions make of a sequence whose parts (context, target, references) stand in this order; put back."""
    parts = torch.arange(sum(sizes)).split(sizes)
    index = torch.cat([parts[number] for number in order])
    starts = {number: sum(sizes[other] for other in order[:place]) for place, number in enumerate(order)}
    context, target, references = (slice(starts[number], starts[number] + sizes[number]) for number in range(3))
    found = output[:, index].clone()
    for addition in additions:
        found = addition(
            site, query[:, index], found, AttentionLayout(context=context, target=target, references=references)
        )
    return found[:, index.argsort()].detach()
