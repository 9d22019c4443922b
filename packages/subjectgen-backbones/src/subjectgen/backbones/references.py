"""References whose keys and values do not depend on the step (method section 4, ``isolated``).

Isolated reference tokens attend to references only, with a timestep, a pooled vector and a guidance of their own; their
keys and values are then the same in every step, and can be computed once. What the target reads from them is the same
whether they are computed now or were kept. Exact only for a model that was trained so (as OminiControl2, arXiv
2503.08280, and FLUX.2 klein's K/V variant).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from subjectgen.backbones.attention import KeysValues
from subjectgen.core import Streams, TokenGroup

REFERENCE_TIMESTEP = 0.0
"""References are clean images."""
REFERENCE_GUIDANCE = 1.0
"""The embedded guidance of training."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedStreams(Streams):
    """Streams that keep the keys and values of their references. They hold while all they are made of stays."""

    keys_values: tuple[KeysValues, ...]
    """One pair per attention, in running order."""
    computed_from: Streams
    """Of its references and target, beside which the references stand."""
    weights: tuple[nn.Parameter, ...]
    """The weights they were computed with."""
    written: int
    """How often something had been written to these weights."""

    @property
    def valid(self) -> bool:
        """Whether references, the target's grid and weights are still what they were."""
        then = self.computed_from
        same = len(self.references) == len(then.references) and all(map(_is, self.references, then.references))
        return same and self.target_grid == then.target_grid and _written(self.weights) == self.written


def cached(streams: Streams, keys_values: tuple[KeysValues, ...], weights: tuple[nn.Parameter, ...]) -> CachedStreams:
    """The same streams, with what these weights made of their references."""
    values: dict[str, Any] = {field.name: getattr(streams, field.name) for field in fields(Streams)}
    made = Streams(target_grid=streams.target_grid, references=streams.references)
    return CachedStreams(
        **values, keys_values=keys_values, computed_from=made, weights=weights, written=_written(weights)
    )


def same_references(one: Streams, other: Streams) -> bool:
    """Whether both have equal references, tokens and masks, at equal positions."""
    alike = len(one.references) == len(other.references) and one.target_grid == other.target_grid
    return alike and all(map(_equal, one.references, other.references))


def visible_references(mask: Bool[Tensor, "b r"]) -> Bool[Tensor, "b r"]:
    """Keys that references may look at. A row without any valid token looks at all: nobody will look at it, and
    attention over nothing is not a number.
    """
    return mask | ~mask.any(dim=1, keepdim=True)


def _written(weights: Iterable[nn.Parameter]) -> int:
    """Torch counts it for each tensor, but for those made in inference mode, which cannot be trained."""
    return sum(weight._version for weight in weights if not weight.is_inference())


def _is(one: object, other: object) -> bool:
    return one is other


def _equal(one: TokenGroup, other: TokenGroup) -> bool:
    pairs = ((one.tokens, other.tokens), (one.mask, other.mask))
    same = all(a is b or (a.shape == b.shape and a.device == b.device and torch.equal(a, b)) for a, b in pairs)
    return same and (one.reference, one.grid) == (other.reference, other.grid)
