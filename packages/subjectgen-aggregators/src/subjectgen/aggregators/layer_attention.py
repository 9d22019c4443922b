"""Attention over the layer axis, in its plain form and pooled over layers before the value and output maps.

Shape letters: t tokens, n layers, c channels, h heads, w channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.aggregators.feed_forward import FeedForward
from subjectgen.core.aggregating import RMSNorm

_EPS = RMSNorm.EPS


class LayerAttentionBlock(nn.Module):
    """x + MHA(RMSNorm(x)), the sequence being the n layers of one token; no mask, no position, no bias.

    Args:
        width: channels c.
        heads: attention heads; divides ``width``.
        qk_norm: RMSNorm on queries and keys of each head.
        feed_forward: a SwiGLU feed-forward after the attention.

    Source: paper section 3.2; block as in Krea 2's ``TextFusion``, without its output gate.
    """

    def __init__(self, width: int, *, heads: int, qk_norm: bool = False, feed_forward: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.norm = RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = RMSNorm(self.head_width) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(self.head_width) if qk_norm else nn.Identity()
        self.feed_forward = FeedForward(width) if feed_forward else nn.Identity()

    def forward(self, x: Float[Tensor, "t n c"]) -> Float[Tensor, "t n c"]:
        """Apply the block to every layer of every token."""
        normalized = self.norm(x)
        query = self.query_norm(self._split(self.query(normalized)))
        key = self.key_norm(self._split(self.key(normalized)))
        attended = F.scaled_dot_product_attention(query, key, self._split(self.value(normalized)))
        return self.feed_forward(x + self.out(attended.transpose(1, 2).flatten(2)))

    def pool(self, x: Float[Tensor, "t n c"], weights: Float[Tensor, " n"]) -> Float[Tensor, "t c"]:
        """Return sum_i weights_i * forward(x)_i, without a feed-forward without ever forming the n outputs.

        Exact, because the sum over layers, W_o and W_v are linear:
        y = sum_i w_i x_i + W_o concat_h[W_v^h sum_j p_j^h RMSNorm(x)_j] with p^h = w P^h, P^h the attention of head h.
        Only queries and keys are computed for every layer: 2n + 2 instead of 4n maps of c x c per token, half the time
        and memory. A feed-forward is not linear: with one, the n outputs are formed.
        """
        if isinstance(self.feed_forward, FeedForward):
            return torch.matmul(weights, self(x))
        normalized = F.rms_norm(x, x.shape[-1:], eps=_EPS)
        p = torch.matmul(weights, self._attention(normalized))
        # The residual sum w_i x_i is one more head over the normalized layers: x_i = rms_i * normalized_i.
        residual = (weights * _root_mean_square(x)).to(p.dtype)[:, None]
        mixed = torch.matmul(torch.cat([p, residual], dim=1), normalized)
        value = (self.value.weight * self.norm.weight).view(self.heads, self.head_width, -1)
        attended = torch.einsum("thc,hwc->thw", mixed[:, :-1], value)
        return mixed[:, -1] + self.out(attended.flatten(1))

    def attention(self, x: Float[Tensor, "t n c"]) -> Float[Tensor, "t h n n"]:
        """Attention probabilities P, from a layer (row) to the layers it reads (column)."""
        return self._attention(F.rms_norm(x, x.shape[-1:], eps=_EPS))

    def _attention(self, normalized: Float[Tensor, "t n c"]) -> Float[Tensor, "t h n n"]:
        # The norm's gain goes into the maps' columns, so that one copy of the layers serves all.
        query = self.query_norm(self._split(F.linear(normalized, self.query.weight * self.norm.weight)))
        key = self.key_norm(self._split(F.linear(normalized, self.key.weight * self.norm.weight)))
        return torch.softmax(torch.matmul(query * self.head_width**-0.5, key.transpose(2, 3)), dim=-1)

    def _split(self, x: Float[Tensor, "t n c"]) -> Float[Tensor, "t h n w"]:
        return x.view(*x.shape[:2], self.heads, self.head_width).transpose(1, 2)


def _root_mean_square(x: Float[Tensor, "t n c"]) -> Float[Tensor, "t n"]:
    """What RMSNorm divides by, at least in single precision."""
    norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
    return (norm.square() / x.shape[-1] + _EPS).sqrt()
