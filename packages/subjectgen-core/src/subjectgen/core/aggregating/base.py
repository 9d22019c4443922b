"""What aggregators of tokens share: valid tokens in, context tokens out in place, padding zero.

Shape letters: b rows, l tokens of a row, t valid tokens of all rows, c encoder width, d context width, p pooled width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core.aggregating.places import TokenPlaces, hidden_state
from subjectgen.core.errors import ComponentError
from subjectgen.core.streams import Conditioning, Features


class TokenAggregator(nn.Module, ABC):
    """One context token for each valid token of the encoder, in place and in order, with the reference it tells of.

    Args:
        layers: indices of the hidden states that it reads, in any order.
        width: channels c of the hidden states.
        depth: number of hidden states, M + 1.

    Computes in the dtype of its parameters and returns the dtype of the features. At inference it draws nothing; one
    that draws in training has a ``generator`` of its own, on the CPU, which a trainer may seed before each step.

    Raises:
        ComponentError: no layers, or layers that the encoder does not have.
    """

    layers: tuple[int, ...]
    """Hidden states it reads, rising."""

    def __init__(self, layers: Iterable[int], *, width: int, depth: int) -> None:
        super().__init__()
        self.layers = tuple(sorted(set(layers)))
        self.width = width
        self.depth = depth
        if not self.layers or self.layers[0] < 0 or self.layers[-1] >= depth:
            raise ComponentError(
                f"layers: got {list(self.layers)}; expected some of the encoder's hidden states, 0-{depth - 1}"
            )

    @abstractmethod
    def condition(
        self, features: Features, places: TokenPlaces
    ) -> tuple[Float[Tensor, "t d"], Float[Tensor, "b p"] | None]:
        """Context tokens for the tokens at ``places``, all valid ones, in that order; and a pooled vector, if any."""

    def forward(self, features: Features) -> Conditioning:
        """Aggregate features (b, l, c) to context tokens (b, l, d); tokens are exactly zero at padding.

        Raises:
            ComponentError: features of another width or depth, or without a hidden state that is needed.
        """
        self.check(features)
        places = TokenPlaces.of(features)
        tokens, pooled = self.condition(features, places)
        dtype = hidden_state(features, self.layers[-1]).dtype
        return Conditioning(
            tokens=places.scatter(tokens).to(dtype),
            mask=features.mask,
            pooled=None if pooled is None else pooled.to(dtype),
            reference=features.reference,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return next((parameter.dtype for parameter in self.parameters()), torch.get_default_dtype())

    def gather(self, features: Features, layer: int, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """The tokens of F_layer at ``places``, in the dtype it computes in."""
        return places.gather(hidden_state(features, layer)).to(self.dtype)

    def check(self, features: Features) -> None:
        """Refuse features of another encoder than the one it was built for."""
        width = next((state.shape[2] for state in features.hidden_states if state is not None), self.width)
        if (features.depth, width) != (self.depth, self.width):
            raise ComponentError(
                f"{type(self).__name__} was built for {self.depth} hidden states of width {self.width}, "
                f"but the features have {features.depth} of width {width}"
            )
