"""Valid tokens of a padded batch as one flat list: nothing is ever computed on padding.

Shape letters: b rows, l tokens of a row, t valid tokens of all rows, c channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subjectgen.core.errors import ComponentError
from subjectgen.core.streams import Features, Modality


@dataclass(frozen=True, slots=True, eq=False)
class TokenPlaces:
    """Places of t tokens in a batch of b rows of l tokens: text tokens row by row, and then image tokens row by row."""

    index: Int[Tensor, " t"]
    """Places in the flattened batch, row * l + column."""
    texts: int
    """How many of them, the first ones, are text tokens."""
    batch: int
    length: int

    @classmethod
    def of(cls, features: Features) -> TokenPlaces:
        """The places of all valid tokens."""
        image = features.modality == Modality.IMAGE
        text, images = ((mask.flatten().nonzero().squeeze(1)) for mask in (features.mask & ~image, image))
        return cls(torch.cat([text, images]), len(text), *features.modality.shape)

    def only(self, modality: Modality) -> TokenPlaces:
        """Those of text tokens, or those of image tokens."""
        if modality == Modality.IMAGE:
            return TokenPlaces(self.index[self.texts :], 0, self.batch, self.length)
        return TokenPlaces(self.index[: self.texts], self.texts, self.batch, self.length)

    @property
    def row(self) -> Int[Tensor, " t"]:
        """Which row of the batch each token belongs to."""
        return self.index // max(self.length, 1)

    def gather(self, states: Float[Tensor, "b l c"]) -> Float[Tensor, "t c"]:
        """Take the tokens at these places."""
        return states.flatten(0, 1).index_select(0, self.index)

    def scatter(self, tokens: Float[Tensor, "t c"]) -> Float[Tensor, "b l c"]:
        """Put tokens back at their places; exactly zero everywhere else."""
        flat = tokens.new_zeros(self.batch * self.length, tokens.shape[1]).index_copy(0, self.index, tokens)
        return flat.view(self.batch, self.length, tokens.shape[1])

    def mean(self, tokens: Float[Tensor, "t c"]) -> Float[Tensor, "b c"]:
        """Mean of the tokens of each row; zero for a row without any."""
        total = tokens.new_zeros(self.batch, tokens.shape[1]).index_add(0, self.row, tokens)
        count = torch.bincount(self.row, minlength=self.batch)
        return total / count.clamp(min=1).to(total.dtype)[:, None]


def hidden_state(features: Features, index: int) -> Float[Tensor, "b l c"]:
    """F_index.

    Raises:
        ComponentError: the encoder did not keep it.
    """
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
