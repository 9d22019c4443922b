"""Valid tokens of a padded batch as one flat list: nothing is ever computed on padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subjectgen.core import ComponentError, Features


@dataclass(frozen=True, slots=True, eq=False)
class TokenPlaces:
    """Places of t chosen tokens in a batch of b rows of l tokens."""

    index: Int[Tensor, " t"]
    """Places in the flattened batch, row * l + column."""
    batch: int
    length: int

    @classmethod
    def of(cls, mask: Bool[Tensor, "b l"]) -> TokenPlaces:
        """The places where ``mask`` is true, row by row."""
        return cls(mask.flatten().nonzero().squeeze(1), *mask.shape)

    @property
    def row(self) -> Int[Tensor, " t"]:
        """Which row of the batch each token belongs to."""
        return self.index // max(self.length, 1)

    def followed_by(self, other: TokenPlaces) -> TokenPlaces:
        """These places and then the other's, of the same batch."""
        return TokenPlaces(torch.cat([self.index, other.index]), self.batch, self.length)

    def gather(self, states: Float[Tensor, "b l c"]) -> Float[Tensor, "t c"]:
        """Take the tokens at these places."""
        return states.flatten(0, 1).index_select(0, self.index)

    def scatter(self, tokens: Float[Tensor, "t c"]) -> Float[Tensor, "b l c"]:
        """Put tokens back at their places; exactly zero everywhere else."""
        flat = tokens.new_zeros(self.batch * self.length, tokens.shape[1]).index_copy(0, self.index, tokens)
        return flat.view(self.batch, self.length, tokens.shape[1])


def hidden_state(features: Features, index: int) -> Float[Tensor, "b l c"]:
    """F_index; a :class:`ComponentError` says so if the encoder did not keep it."""
    state = features.hidden_states[index]
    if state is None:
        kept = [i for i, kept_state in enumerate(features.hidden_states) if kept_state is not None]
        raise ComponentError(
            f"hidden state {index} is missing, the features hold only {kept}; encode with layers=aggregator.layers"
        )
    return state


def vision_features(features: Features) -> Float[Tensor, "b l c"]:
    """The vision tower's features after the projector, valid at image positions.

    Where the encoder does not give them apart, F_0 has them: a multimodal LLM's embedding output at image
    positions *is* the projected vision feature.
    """
    return hidden_state(features, 0) if features.image_features is None else features.image_features
