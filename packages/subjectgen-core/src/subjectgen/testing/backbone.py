"""What every backbone promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings, strategies as st
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core import AttentionLayout, Backbone, Streams, TokenGroup
from subjectgen.testing.base import Contract

GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def token_group(tokens: Float[Tensor, "b l d"], position_ids: Float[Tensor, "l 3"] | None = None) -> TokenGroup:
    """Tokens that all count, by default all at position 0."""
    batch, length, _ = tokens.shape
    ids = torch.zeros(length, 3) if position_ids is None else position_ids
    return TokenGroup(tokens=tokens, mask=torch.ones(batch, length, dtype=torch.bool), position_ids=ids)


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
        pooled: whether a pooled vector is given.
        seed: of all values.
    """
    generator = torch.Generator().manual_seed(seed)
    width = backbone.latent_channels * backbone.patch_size**2
    images = []
    for rows, columns in references:
        ids = torch.cartesian_prod(torch.zeros(1), torch.arange(rows) + 10.0, torch.arange(columns) + 10.0)
        images.append(token_group(torch.randn(batch, rows * columns, width, generator=generator), ids))
    return Streams(
        target_grid=grid,
        context=(token_group(torch.randn(batch, context, backbone.context_width, generator=generator)),),
        image=tuple(images),
        image_grids=tuple(references),
        pooled=torch.randn(batch, backbone.pooled_width, generator=generator) if pooled else None,
    )


def velocity(
    backbone: Backbone, streams: Streams, *, batch: int = 2, timestep: float = 0.7, seed: int = 1, **changes: Any
) -> Float[Tensor, "b c h w"]:
    """The backbone's answer for random latents; the same latents for the same seed."""
    rows, columns = (size * backbone.patch_size for size in streams.target_grid)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, backbone.latent_channels, rows, columns, generator=generator)
    guidance = 1.0 if backbone.guidance_embedded else None
    arguments = {"guidance": guidance, **changes}
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
        image=tuple(map(cut, streams.image)),
        pooled=None if streams.pooled is None else streams.pooled[index : index + 1],
    )


def masked(group: TokenGroup, *, value: float = 0.0) -> TokenGroup:
    """The same group with every token masked, and its content shifted by ``value``."""
    return replace(group, tokens=group.tokens + value, mask=torch.zeros_like(group.mask))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of another order of summation."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


class BackboneContract(Contract):
    """Laws of a backbone.

    Give a fixture ``backbone``: small, float32, on the CPU.
    """

    def test_is_a_backbone(self, backbone: Backbone) -> None:
        """It is a module with every member of the protocol, and its widths make sense."""
        assert isinstance(backbone, nn.Module)
        assert isinstance(backbone, Backbone)
        assert min(backbone.context_width, backbone.pooled_width, backbone.latent_channels, backbone.patch_size) >= 1

    def test_velocity_has_the_shape_of_the_latents(self, backbone: Backbone) -> None:
        """For any batch, target, context and references, none included."""

        @settings(deadline=None, max_examples=20)
        @given(
            batch=st.integers(1, 3),
            grid=GRIDS,
            context=st.integers(0, 4),
            references=st.lists(GRIDS, max_size=2),
            pooled=st.booleans(),
            timestep=st.floats(0, 1),
        )
        def law(batch: int, timestep: float, **layout: Any) -> None:
            streams = make_streams(backbone, batch=batch, **layout)
            with torch.no_grad():
                result = velocity(backbone, streams, batch=batch, timestep=timestep)
            rows, columns = (size * backbone.patch_size for size in streams.target_grid)
            assert result.shape == (batch, backbone.latent_channels, rows, columns)
            assert result.dtype == torch.float32
            assert result.isfinite().all()

        law()

    def test_a_dropped_branch_equals_an_absent_one(self, backbone: Backbone) -> None:
        """Masking all tokens of a group, whatever they hold, is leaving the group out; an empty group is none."""
        streams = make_streams(backbone)
        context, image = streams.context[0], streams.image[0]
        nothing = token_group(context.tokens[:, :0])
        pairs = [
            (replace(streams, context=()), replace(streams, context=(masked(context, value=50.0),))),
            (replace(streams, context=()), replace(streams, context=(nothing,))),
            (
                replace(streams, image=(), image_grids=()),
                replace(streams, image=(masked(image, value=50.0),)),
            ),
            (
                replace(streams, context=(), image=(), image_grids=()),
                replace(streams, context=(masked(context),), image=(masked(image),)),
            ),
        ]
        with torch.no_grad():
            for absent, dropped in pairs:
                assert_same(velocity(backbone, dropped), velocity(backbone, absent))

    def test_padding_never_matters(self, backbone: Backbone) -> None:
        """A masked token among others may hold anything; each row has its own mask."""
        streams = make_streams(backbone)
        group = streams.context[0]
        mask = group.mask.clone()
        mask[0, -1] = mask[1, 0] = False
        padded = replace(group, mask=mask)
        disturbed = replace(padded, tokens=torch.where(mask[..., None], group.tokens, group.tokens + 50.0))
        with torch.no_grad():
            before = velocity(backbone, replace(streams, context=(padded,)))
            after = velocity(backbone, replace(streams, context=(disturbed,)))
        assert_same(after, before)

    def test_rows_are_independent(self, backbone: Backbone) -> None:
        """A row of a batch gets what it would get alone."""
        streams = make_streams(backbone)
        latents = torch.randn(
            2,
            backbone.latent_channels,
            *(size * backbone.patch_size for size in streams.target_grid),
            generator=torch.Generator().manual_seed(1),
        )
        timestep = torch.tensor([0.9, 0.2])
        guidance = 1.0 if backbone.guidance_embedded else None
        with torch.no_grad():
            together = backbone(latents, timestep, streams, guidance=guidance)
            for index in range(2):
                one = slice(index, index + 1)
                alone = backbone(latents[one], timestep[one], row(streams, index), guidance=guidance)
                assert_same(together[one], alone)

    def test_conditioning_is_used(self, backbone: Backbone) -> None:
        """The velocity depends on context, references and the pooled vector, of every row."""
        wake(_module(backbone))
        streams = make_streams(backbone)
        assert streams.pooled is not None
        inputs = [streams.context[0].tokens, streams.image[0].tokens, streams.pooled]
        for tensor in inputs:
            tensor.requires_grad_(True)
        torch.autograd.backward(velocity(backbone, streams).square().sum())
        for tensor in inputs:
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
            assert tensor.grad.flatten(1).any(dim=1).all()

    def test_positions_of_references_are_used(self, backbone: Backbone) -> None:
        """The same reference elsewhere in position space gives another velocity."""
        wake(_module(backbone))
        streams = make_streams(backbone)
        (group,) = streams.image
        moved = replace(group, position_ids=group.position_ids + torch.tensor([0.0, 3.0, 5.0]))
        with torch.no_grad():
            before, after = velocity(backbone, streams), velocity(backbone, replace(streams, image=(moved,)))
        assert not torch.equal(before, after)

    def test_timestep_and_guidance_are_used(self, backbone: Backbone) -> None:
        """The velocity depends on t, and on guidance where the backbone has that input."""
        wake(_module(backbone))
        streams = make_streams(backbone)
        with torch.no_grad():
            now = velocity(backbone, streams, timestep=0.9)
            assert not torch.equal(now, velocity(backbone, streams, timestep=0.1))
            if backbone.guidance_embedded:
                assert not torch.equal(now, velocity(backbone, streams, timestep=0.9, guidance=4.0))

    def test_additions_run_in_every_attention(self, backbone: Backbone) -> None:
        """Once per site, in order, with queries and outputs of all tokens; what is added there is used."""
        wake(_module(backbone))
        streams = make_streams(backbone)
        seen: list[int] = []

        def addition(site: int, query: Tensor, output: Tensor, layout: AttentionLayout) -> Tensor:
            length = layout.references.stop
            expected = (2, length, backbone.attention_sites[site].heads, backbone.attention_sites[site].head_width)
            assert query.shape == output.shape == expected
            assert layout.target.stop - layout.target.start == streams.target_grid[0] * streams.target_grid[1]
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
        _module(backbone).eval()
        streams = make_streams(backbone)
        with torch.no_grad():
            first, second = velocity(backbone, streams), velocity(backbone, streams)
        assert torch.equal(first, second)
        untouched = make_streams(backbone)
        assert torch.equal(streams.context[0].tokens, untouched.context[0].tokens)
        assert torch.equal(streams.image[0].tokens, untouched.image[0].tokens)


def _module(backbone: Backbone) -> nn.Module:
    assert isinstance(backbone, nn.Module)
    return backbone
