"""Transformer blocks over the tokens, after the layers have been aggregated."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subjectgen.aggregators.feed_forward import FeedForward
from subjectgen.core.aggregating import RMSNorm, TokenPlaces


class Refiner(nn.Module):
    """Bidirectional blocks in which the valid tokens of a row see each other, text and images alike.

    No position is added: hidden states carry the language model's own.

    Source: UniFusion's bidirectional refiner; blocks as in Krea 2.
    """

    def __init__(self, width: int, *, blocks: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, heads=heads) for _ in range(blocks))

    def forward(self, tokens: Float[Tensor, "t c"], places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Refine the tokens that stand at ``places``."""
        if not self.blocks:
            return tokens
        visible = _visible(places)
        for block in self.blocks:
            tokens = block(tokens, places, visible)
        return tokens


class _Block(nn.Module):
    """Pre-norm attention over tokens and feed-forward; linear maps run on valid tokens only."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feed_forward = FeedForward(width)

    def forward(
        self, tokens: Float[Tensor, "t c"], places: TokenPlaces, visible: Bool[Tensor, "b 1 l l"]
    ) -> Float[Tensor, "t c"]:
        padded = places.scatter(self.query_key_value(self.norm(tokens)))
        heads = padded.view(places.batch, places.length, 3, self.heads, tokens.shape[1] // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return self.feed_forward(tokens + self.out(places.gather(attended.transpose(1, 2).flatten(2))))


def _visible(places: TokenPlaces) -> Bool[Tensor, "b 1 l l"]:
    """Valid keys; padding also sees itself, since a query that sees nothing would be NaN."""
    valid = torch.zeros(places.batch * places.length, dtype=torch.bool, device=places.index.device)
    valid = valid.index_fill(0, places.index, True).view(places.batch, 1, 1, places.length)
    return valid | torch.eye(places.length, dtype=torch.bool, device=valid.device)
