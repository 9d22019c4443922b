"""What the four aggregators share: the expert network, and valid tokens of some hidden states in, context tokens out.

Shape letters: b rows, l tokens of a row, t valid tokens of all rows, c encoder width, d context width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subjectgen.core import ComponentError, Conditioning, Features


class Expert(nn.Module):
    """Linear, GELU, layer normalization (DynaIP Eq. 6)."""

    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, context_width)
        self.norm = nn.LayerNorm(context_width)

    def forward(self, tokens: Float[Tensor, "t c"]) -> Float[Tensor, "t d"]:
        """Map tokens of one level to context tokens."""
        return self.norm(nn.functional.gelu(self.project(tokens)))


class LevelAggregator(nn.Module, ABC):
    """One context token for each valid token of the encoder, in place and in order; no pooled vector.

    Args:
        layers: the hidden states it reads, rising.
        width: channels c of the hidden states.
        depth: number of hidden states, M + 1.
        context_width: channels d of the context tokens.

    Computes in the dtype of its parameters and returns the dtype of the features.
    """

    component: ClassVar[str]
    """Its name in experiments, for messages."""

    def __init__(self, layers: tuple[int, ...], *, width: int, depth: int, context_width: int) -> None:
        super().__init__()
        self.layers = layers
        self.width = width
        self.depth = depth
        self.context_width = context_width

    @abstractmethod
    def fuse(self, features: Features, places: Int[Tensor, " t"]) -> Float[Tensor, "t d"]:
        """Context tokens for the tokens at ``places`` of the flattened batch."""

    def forward(self, features: Features) -> Conditioning:
        """Aggregate features (b, l, c) to context tokens (b, l, d); tokens are exactly zero at padding.

        Raises:
            ComponentError: features of another width or depth, or without a hidden state that is needed.
        """
        self.check(features)
        mask = features.mask
        places = mask.flatten().nonzero().squeeze(1)
        tokens = self.fuse(features, places)
        flat = tokens.new_zeros(mask.numel(), self.context_width).index_copy(0, places, tokens)
        return Conditioning(
            tokens=flat.view(*mask.shape, self.context_width).to(self.state(features, self.layers[-1]).dtype),
            mask=mask,
            reference=features.reference,
        )

    @property
    def defining(self) -> dict[str, object]:
        """Options that trained weights depend on beside their shapes."""
        return {"layers": list(self.layers)}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return next(self.parameters()).dtype

    def state(self, features: Features, index: int) -> Float[Tensor, "b l c"]:
        """F_index; a :class:`ComponentError` says so if the encoder did not keep it."""
        state = features.hidden_states[index]
        if state is None:
            kept = [i for i, kept_state in enumerate(features.hidden_states) if kept_state is not None]
            raise ComponentError(
                f"aggregator {self.component!r}: hidden state {index} is missing, the features hold only {kept}; "
                "encode with layers=aggregator.layers"
            )
        return state

    def tokens(self, features: Features, index: int, places: Int[Tensor, " t"]) -> Float[Tensor, "t c"]:
        """The tokens of F_index at ``places`` of the flattened batch, in the parameters' dtype."""
        return self.state(features, index).flatten(0, 1).index_select(0, places).to(self.dtype)

    def check(self, features: Features) -> None:
        """Refuse features of another encoder than the one this was built for."""
        width = next((state.shape[2] for state in features.hidden_states if state is not None), self.width)
        if (features.depth, width) != (self.depth, self.width):
            raise ComponentError(
                f"aggregator {self.component!r} was built for {self.depth} hidden states of width {self.width}, "
                f"but the features have {features.depth} of width {width}"
            )
