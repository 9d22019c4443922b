"""The backbone's pooled text vector, which was CLIP's, from a branch without CLIP."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core.aggregating.places import TokenPlaces
from subjectgen.core.errors import ComponentError
from subjectgen.core.streams import Features

PooledOption: TypeAlias = Literal["mean", "mean_aggregated", "constant", "clip", "none"]


class Pooled(nn.Module):
    """Gives the pooled vector (b, p), or none.

    Args:
        option: ``mean``: mean of the row's context tokens, after the connector, through a linear map;
            ``mean_aggregated``: mean of the aggregated tokens, before the connector, through a linear map, as
            Step1X-Edit does; ``constant``: a learned vector; ``clip``: the encoder's own pooled vector, untouched;
            ``none``: none.
        width: channels c of the aggregated tokens.
        context_width: channels d of the context tokens.
        pooled_width: width p that the backbone takes; ``None`` where it takes no pooled vector, and then there is
            none whatever ``option`` says.
    """

    def __init__(self, option: PooledOption, *, width: int, context_width: int, pooled_width: int | None) -> None:
        super().__init__()
        self.option: PooledOption = "none" if pooled_width is None else option
        self.pooled_width = pooled_width
        if pooled_width is None:
            return
        if self.option in ("mean", "mean_aggregated"):
            self.project = nn.Linear(context_width if self.option == "mean" else width, pooled_width)
        if self.option == "constant":
            self.constant = nn.Parameter(torch.zeros(pooled_width))

    def forward(
        self,
        aggregated: Float[Tensor, "t c"],
        tokens: Float[Tensor, "t d"],
        places: TokenPlaces,
        features: Features,
    ) -> Float[Tensor, "b p"] | None:
        """Pool the tokens that stand at ``places``, before and after the connector. A row without any has mean zero.

        Raises:
            ComponentError: ``clip`` without a fitting vector in the features.
        """
        if self.option == "mean":
            return self.project(places.mean(tokens))
        if self.option == "mean_aggregated":
            return self.project(places.mean(aggregated))
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
