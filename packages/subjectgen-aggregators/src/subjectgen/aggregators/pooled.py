"""The backbone's pooled text vector, which was CLIP's, from a branch without CLIP."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.aggregators.tokens import TokenPlaces
from subjectgen.core import ComponentError, Features

PooledOption: TypeAlias = Literal["none", "mean", "constant", "clip"]


class Pooled(nn.Module):
    """Gives the pooled vector (b, p), or none.

    Args:
        option: ``mean``: mean of the valid context tokens -> Linear (as Step1X-Edit and DreamEngine);
            ``constant``: a learned vector; ``clip``: the encoder's own pooled vector, untouched; ``none``: none.
        context_width: width of the context tokens.
        pooled_width: width the backbone takes.

    Raises:
        ComponentError: the backbone takes no pooled vector, or ``clip`` without a fitting vector in the features.
    """

    def __init__(self, option: PooledOption, *, context_width: int, pooled_width: int) -> None:
        super().__init__()
        if option != "none" and pooled_width < 1:
            raise ComponentError(f"pooled: {option!r}, but the backbone takes no pooled vector; use 'none'")
        self.option = option
        self.pooled_width = pooled_width
        if option == "mean":
            self.project = nn.Linear(context_width, pooled_width)
        if option == "constant":
            self.constant = nn.Parameter(torch.zeros(pooled_width))

    def forward(
        self, tokens: Float[Tensor, "t d"], places: TokenPlaces, features: Features
    ) -> Float[Tensor, "b p"] | None:
        """Pool the context ``tokens`` that stand at ``places``. A row without tokens has mean zero."""
        if self.option == "mean":
            return self.project(_mean_per_row(tokens, places))
        if self.option == "constant":
            return self.constant.expand(places.batch, -1)
        return self._clip(features) if self.option == "clip" else None

    def _clip(self, features: Features) -> Float[Tensor, "b p"]:
        if features.pooled is None:
            raise ComponentError("pooled: 'clip', but the encoder gives no pooled vector; use 'mean' or 'constant'")
        if features.pooled.shape[1] != self.pooled_width:
            raise ComponentError(
                f"pooled: 'clip', but the encoder's pooled vector has width {features.pooled.shape[1]} and the "
                f"backbone takes {self.pooled_width}; use 'mean' or 'constant'"
            )
        return features.pooled


def _mean_per_row(tokens: Float[Tensor, "t d"], places: TokenPlaces) -> Float[Tensor, "b d"]:
    total = tokens.new_zeros(places.batch, tokens.shape[1]).index_add(0, places.row, tokens)
    count = torch.bincount(places.row, minlength=places.batch)
    return total / count.clamp(min=1).to(total.dtype)[:, None]
