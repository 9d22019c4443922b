"""What every backbone promises; what its capabilities promise is in :mod:`subjectgen.testing.capabilities`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core import AttentionLayout, Backbone, Streams, SubjectgenError, TokenGroup
from subjectgen.testing.base import Contract

GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def token_group(tokens: Float[Tensor, "b l d"]) -> TokenGroup:
    """Context tokens that all count."""
    return TokenGroup(tokens=tokens, mask=torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


def reference_group(tokens: Float[Tensor, "b l q"], number: int, grid: tuple[int, int]) -> TokenGroup:
    """Tokens of one reference, which all count."""
    return replace(token_group(tokens), role="reference", reference=number, grid=grid)


def make_streams(
    backbone: Backbone,
    *,
    batch: int = 2,
    grid: tuple[int, int] = (2, 3),
    context: int = 3,
    references: Sequence[tuple[int, int]] = ((2, 2),),
    pooled: bool = True,
    seed: int = 0,
) -> Streams:
    """Random streams of the backbone's widths: one group of context tokens and one group per reference.

    Args:
        backbone: for its widths.
        batch: rows b.
        grid: tokens of the target, rows and columns.
        context: number of context tokens.
        references: tokens of each reference, rows and columns.
        pooled: whether a pooled vector is given; never to a backbone without that input.
        seed: of all values.
    """
    generator = torch.Generator().manual_seed(seed)
    width = backbone.latent_channels * backbone.patch_size**2
    groups = [
        reference_group(torch.randn(batch, rows * columns, width, generator=generator), number, (rows, columns))
        for number, (rows, columns) in enumerate(references)
    ]
    tokens = torch.randn(batch, context, backbone.context_width, generator=generator)
    width = backbone.pooled_width or 0
    vector = torch.randn(batch, width, generator=generator) if pooled and width else None
    return Streams(target_grid=grid, context=(token_group(tokens),), references=tuple(groups), pooled=vector)


def make_latents(
    backbone: Backbone, grid: tuple[int, int], *, batch: int = 2, seed: int = 1
) -> Float[Tensor, "b c h w"]:
    """Random latents for a target of this many rows and columns of tokens; the same for the same seed."""
    rows, columns = (size * backbone.patch_size for size in grid)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, backbone.latent_channels, rows, columns, generator=generator)


def velocity(
    backbone: Backbone, streams: Streams, *, batch: int = 2, timestep: float = 0.7, seed: int = 1, **changes: Any
) -> Float[Tensor, "b c h w"]:
    """The backbone's answer for :func:`make_latents`."""
    latents = make_latents(backbone, streams.target_grid, batch=batch, seed=seed)
    arguments = {"guidance": 1.0 if backbone.guidance_embedded else None, **changes}
    return backbone(latents, torch.full((batch,), timestep), streams, **arguments)


def wake(module: nn.Module) -> None:
    """Give values to parameters that are all zero, in place.

    A zero-initialised part rightly does nothing before training; laws about what is used are about the wiring.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def row(streams: Streams, index: int) -> Streams:
    """One row of a batch, as a batch of one."""

    def cut(group: TokenGroup) -> TokenGroup:
        return replace(group, tokens=group.tokens[index : index + 1], mask=group.mask[index : index + 1])

    return replace(
        streams,
        context=tuple(map(cut, streams.context)),
        references=tuple(map(cut, streams.references)),
        pooled=None if streams.pooled is None else streams.pooled[index : index + 1],
    )


def masked(group: TokenGroup, *, value: float = 0.0) -> TokenGroup:
    """The same group with every token masked, and its content shifted by ``value``."""
    return replace(group, tokens=group.tokens + value, mask=torch.zeros_like(group.mask))


def module_of(backbone: Backbone) -> nn.Module:
    """The backbone as the module that it also is."""
    assert isinstance(backbone, nn.Module)
    return backbone


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of another order of summation."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


class BackboneContract(Contract):
    """Laws of a backbone, of any family: nothing is said of positions, of the order of tokens or of a pooled vector.

    Give a fixture ``backbone``: small, float32, on the CPU. Set ``takes_references = False`` if it has no way to read
    reference tokens; it must then refuse them.
    """

    takes_references = True

    def streams(self, backbone: Backbone, **changes: Any) -> Streams:
        """:func:`make_streams`, with references where the backbone takes them."""
        return make_streams(backbone, **({} if self.takes_references else {"references": ()}) | changes)

    def test_is_a_backbone(self, backbone: Backbone) -> None:
        """It is a module with every member of the protocol, and its widths make sense."""
        assert isinstance(backbone, nn.Module)
        assert isinstance(backbone, Backbone)
        assert min(backbone.context_width, backbone.latent_channels, backbone.patch_size) >= 1
        assert backbone.pooled_width is None or backbone.pooled_width >= 1

    def test_velocity_has_the_shape_of_the_latents(self, backbone: Backbone) -> None:
        """For any batch, target, context and references, none included."""

        @settings(deadline=None, max_examples=20)
        @given(
            batch=st.integers(1, 3),
            grid=GRIDS,
            context=st.integers(0, 4),
            references=st.lists(GRIDS, max_size=2 if self.takes_references else 0),
            pooled=st.booleans(),
            timestep=st.floats(0, 1),
        )
        def law(batch: int, timestep: float, **layout: Any) -> None:
            streams = make_streams(backbone, batch=batch, **layout)
            with torch.no_grad():
                result = velocity(backbone, streams, batch=batch, timestep=timestep)
            assert result.shape == make_latents(backbone, streams.target_grid, batch=batch).shape
            assert result.dtype == torch.float32
            assert result.isfinite().all()

        law()

    def test_a_dropped_branch_equals_an_absent_one(self, backbone: Backbone) -> None:
        """Masking all tokens of a group, whatever they hold, is leaving the group out; an empty group is none."""
        streams = self.streams(backbone)
        (context,), references = streams.context, streams.references
        hidden = tuple(masked(group, value=50.0) for group in references)
        nothing = token_group(context.tokens[:, :0])
        pairs = [
            (replace(streams, context=()), replace(streams, context=(masked(context, value=50.0),))),
            (replace(streams, context=()), replace(streams, context=(nothing,))),
            (replace(streams, references=()), replace(streams, references=hidden)),
            (
                replace(streams, context=(), references=()),
                replace(streams, context=(masked(context),), references=hidden),
            ),
        ]
        with torch.no_grad():
            for absent, dropped in pairs:
                assert_same(velocity(backbone, dropped), velocity(backbone, absent))

    def test_padding_never_matters(self, backbone: Backbone) -> None:
        """A masked token among others may hold anything, of context and of references; each row has its own mask."""
        streams = self.streams(backbone)
        context, references = (
            tuple(replace(group, mask=_without_ends(group.mask)) for group in groups)
            for groups in (streams.context, streams.references)
        )
        padded = replace(streams, context=context, references=references)
        disturbed = replace(
            streams, context=tuple(map(_disturbed, context)), references=tuple(map(_disturbed, references))
        )
        with torch.no_grad():
            assert_same(velocity(backbone, disturbed), velocity(backbone, padded))

    def test_rows_are_independent(self, backbone: Backbone) -> None:
        """A row of a batch gets what it would get alone."""
        streams = self.streams(backbone)
        latents = make_latents(backbone, streams.target_grid)
        timestep = torch.tensor([0.9, 0.2])
        guidance = 1.0 if backbone.guidance_embedded else None
        with torch.no_grad():
            together = backbone(latents, timestep, streams, guidance=guidance)
            for index in range(2):
                one = slice(index, index + 1)
                alone = backbone(latents[one], timestep[one], row(streams, index), guidance=guidance)
                assert_same(together[one], alone)

    def test_conditioning_is_used(self, backbone: Backbone) -> None:
        """The velocity depends on context, references and the pooled vector where there is one, of every row."""
        wake(module_of(backbone))
        streams = self.streams(backbone)
        inputs = [group.tokens for group in (*streams.context, *streams.references)]
        inputs += [] if streams.pooled is None else [streams.pooled]
        for tensor in inputs:
            tensor.requires_grad_(True)
        torch.autograd.backward(velocity(backbone, streams).square().sum())
        for tensor in inputs:
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
            assert tensor.grad.flatten(1).any(dim=1).all()

    def test_references_are_pictures_or_refused(self, backbone: Backbone) -> None:
        """The same tokens as rows and as columns are two pictures. What is not taken is refused, never left out."""
        wake(module_of(backbone))
        flat, upright = (make_streams(backbone, references=(grid,)) for grid in ((1, 4), (4, 1)))
        if self.takes_references:
            with torch.no_grad():
                assert not torch.equal(velocity(backbone, flat), velocity(backbone, upright))
        else:
            with pytest.raises(SubjectgenError, match="reference"):
                velocity(backbone, flat)

    def test_timestep_and_guidance_are_used(self, backbone: Backbone) -> None:
        """The velocity depends on t, and on guidance where the backbone has that input."""
        wake(module_of(backbone))
        streams = self.streams(backbone)
        with torch.no_grad():
            now = velocity(backbone, streams, timestep=0.9)
            assert not torch.equal(now, velocity(backbone, streams, timestep=0.1))
            if backbone.guidance_embedded:
                assert not torch.equal(now, velocity(backbone, streams, timestep=0.9, guidance=4.0))

    def test_additions_run_in_every_attention(self, backbone: Backbone) -> None:
        """Once per site, in order, with queries and outputs of all tokens; what is added there is used."""
        wake(module_of(backbone))
        streams = self.streams(backbone)
        seen: list[int] = []

        def addition(site: int, query: Tensor, output: Tensor, layout: AttentionLayout) -> Tensor:
            where = backbone.attention_sites[site]
            parts = [range(part.start, part.stop) for part in (layout.context, layout.target, layout.references)]
            assert sorted(token for part in parts for token in part) == list(range(query.shape[1]))
            assert query.shape == output.shape == (2, query.shape[1], where.heads, where.head_width)
            assert len(parts[1]) == streams.target_grid[0] * streams.target_grid[1]
            seen.append(site)
            return output + scale * query

        scale = 0.0
        with torch.no_grad():
            plain = velocity(backbone, streams)
            assert torch.equal(velocity(backbone, replace(streams, attention=(addition,))), plain)
            assert seen == list(range(len(backbone.attention_sites)))
            scale = 1.0
            if backbone.attention_sites:
                assert not torch.equal(velocity(backbone, replace(streams, attention=(addition,))), plain)

    def test_evaluation_is_repeatable(self, backbone: Backbone) -> None:
        """The same question twice gives the same answer, and asking changes no input."""
        module_of(backbone).eval()
        streams, untouched = self.streams(backbone), self.streams(backbone)
        with torch.no_grad():
            first, second = velocity(backbone, streams), velocity(backbone, streams)
        assert torch.equal(first, second)
        for name in ("context", "references"):
            for group, before in zip(getattr(streams, name), getattr(untouched, name), strict=True):
                assert torch.equal(group.tokens, before.tokens)


def _without_ends(mask: Tensor) -> Tensor:
    """The first row without its last token, the second without its first."""
    mask = mask.clone()
    mask[0, -1] = mask[1, 0] = False
    return mask


def _disturbed(group: TokenGroup) -> TokenGroup:
    return replace(group, tokens=torch.where(group.mask[..., None], group.tokens, group.tokens + 50.0))
