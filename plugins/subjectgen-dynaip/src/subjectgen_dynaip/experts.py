"""What the four aggregators share: the expert network, and context tokens straight from it, without a pooled vector.

Shape letters: t valid tokens of all rows, c encoder width, d context width.
"""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core import Features
from subjectgen.core.aggregating import TokenAggregator, TokenPlaces


class Expert(nn.Module):
    """Linear, GELU, layer normalization (DynaIP Eq. 6)."""

    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, context_width)
        self.norm = nn.LayerNorm(context_width)

    def forward(self, tokens: Float[Tensor, "t c"]) -> Float[Tensor, "t d"]:
        """Map tokens of one level to context tokens."""
        return self.norm(nn.functional.gelu(self.project(tokens)))


class LevelAggregator(TokenAggregator):
    """One context token for each valid token of the encoder, in place and in order; no pooled vector."""

    @abstractmethod
    def fuse(self, features: Features, places: TokenPlaces) -> Float[Tensor, "t d"]:
        """Context tokens for the tokens at ``places``."""

    def condition(self, features: Features, places: TokenPlaces) -> tuple[Float[Tensor, "t d"], None]:
        """What the experts give is a context token already."""
        return self.fuse(features, places), None
