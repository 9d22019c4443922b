"""Random :class:`~subjectgen.core.Features` of any layout: padding on either side, any number of references."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from hypothesis import strategies as st
from jaxtyping import Int
from torch import Tensor

from subjectgen.core import Features, Modality

TEXT = -1
PADDING = -2
Row: TypeAlias = Collection[int]
"""The tokens of one row: ``TEXT``, or k for an image token of reference k."""


def make_features(
    rows: Collection[Row],
    *,
    width: int,
    depth: int,
    side: Literal["left", "right"] = "right",
    padding: int = 0,
    pooled_width: int | None = None,
    image_features: bool = True,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Features:
    """Make normal random features (b, l, c) with these tokens.

    As in a multimodal LLM, F_0 at image positions is the projected vision feature. Padding is filled with noise too.

    Args:
        rows: the tokens of each row.
        width: channels c.
        depth: number of hidden states, M + 1.
        side: where the padding stands.
        padding: tokens of padding in the longest row; the others are padded to its length.
        pooled_width: width of a pooled vector; none leaves it out.
        image_features: whether the vision features are given apart.
        scale: standard deviation of the hidden states.
        dtype: of all values.
        seed: of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    reference = _padded(rows, side, padding)
    shape = (*reference.shape, width)
    states = tuple((scale * torch.randn(shape, generator=generator)).to(dtype) for _ in range(depth))
    modality = torch.where(reference >= 0, Modality.IMAGE, Modality.TEXT).masked_fill(
        reference == PADDING, Modality.PADDING
    )
    pooled = None if pooled_width is None else torch.randn(len(rows), pooled_width, generator=generator).to(dtype)
    with _random_untouched():
        return Features(
            hidden_states=states,
            modality=modality,
            reference=reference.clamp(min=-1),
            image_features=states[0] * (reference >= 0)[..., None] if image_features else None,
            pooled=pooled,
        )


def features_strategy(
    width: int,
    depth: int,
    *,
    pooled_width: int | None = None,
    max_rows: int = 3,
    max_references: int = 3,
    max_tokens: int = 3,
    dtype: torch.dtype = torch.float32,
) -> st.SearchStrategy[Features]:
    """Draw features: 1 to ``max_rows`` rows, each of text and 0 to ``max_references`` references, padded at random.

    A failing example is shown as the call of :func:`make_features` that makes it.

    Args:
        width: channels c.
        depth: number of hidden states, M + 1.
        pooled_width: width of the pooled vector; none leaves it out.
        max_rows: largest batch.
        max_references: most references in a row; a row may have none, and no text either.
        max_tokens: most tokens of one reference, and of each stretch of text.
        dtype: of all values.
    """
    return st.builds(
        make_features,
        st.lists(_rows(max_references, max_tokens), min_size=1, max_size=max_rows),
        width=st.just(width),
        depth=st.just(depth),
        side=st.sampled_from(["left", "right"]),
        padding=st.integers(0, 2),
        pooled_width=st.just(pooled_width),
        image_features=st.booleans(),
        scale=st.sampled_from([1.0, 0.1, 30.0]),
        dtype=st.just(dtype),
        seed=st.integers(0, 2**31 - 1),
    )


@st.composite
def _rows(draw: Callable[..., Any], max_references: int, max_tokens: int) -> Row:
    """Text, and then each reference followed by text, as a chat template lays them out."""
    count = st.integers(0, max_tokens)
    row = [TEXT] * draw(count)
    for k in range(draw(st.integers(0, max_references))):
        row += [k] * draw(count) + [TEXT] * draw(count)
    return row


def _padded(rows: Collection[Row], side: str, padding: int) -> Int[Tensor, "b l"]:
    length = padding + max(map(len, rows), default=0)
    fill = [[PADDING] * (length - len(row)) for row in rows]
    filled = [[*row, *pad] if side == "right" else [*pad, *row] for row, pad in zip(rows, fill, strict=True)]
    return torch.tensor(filled, dtype=torch.long).view(len(rows), length)


@contextmanager
def _random_untouched() -> Iterator[None]:
    """Leave the state of ``random`` alone: beartype draws from it in its checks, and hypothesis forbids that."""
    state = random.getstate()
    yield
    random.setstate(state)
