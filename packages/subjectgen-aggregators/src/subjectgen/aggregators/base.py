"""What the five aggregators share: valid tokens in, connector, pooled vector, padding out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from subjectgen.aggregators.connector import Connector
from subjectgen.aggregators.pooled import Pooled, PooledOption
from subjectgen.aggregators.refiner import Refiner
from subjectgen.aggregators.tokens import TokenPlaces, hidden_state
from subjectgen.core import ComponentError, Conditioning, Config, Features, Modality


class AggregatorConfig(Config):
    """Options every aggregator has."""

    hidden: int | None = Field(default=None, ge=1)
    """Width between the connector's two linear maps; none means the backbone's context width."""
    pooled: PooledOption = "mean"
    """The backbone's pooled vector: mean of the tokens, a learned constant, the encoder's own (clip), or none."""


class TokenAggregator(nn.Module, ABC):
    """One context token for each valid token of the encoder, in place and in order.

    Args:
        config: the aggregator's options.
        width: channels of the hidden states.
        depth: number of hidden states, M + 1.
        context_width: channels of the context tokens.
        pooled_width: width of the backbone's pooled vector; 0 if it takes none.
        inner_width: channels of what :meth:`aggregate` returns; none means ``width``.

    Computes in the dtype of its parameters and returns the dtype of the features.
    """

    layers: tuple[int, ...]
    """Hidden states it reads."""

    def __init__(
        self,
        config: AggregatorConfig,
        *,
        width: int,
        depth: int,
        context_width: int,
        pooled_width: int,
        inner_width: int | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.depth = depth
        self.connector = Connector(inner_width or width, context_width, hidden=config.hidden)
        self.pooled = Pooled(config.pooled, context_width=context_width, pooled_width=pooled_width)
        self.refiner = Refiner(inner_width or width, blocks=0, heads=1)

    @abstractmethod
    def aggregate(self, features: Features, modality: Modality, places: TokenPlaces) -> Float[Tensor, "t c"]:
        """Aggregate the tokens at ``places``, which are all text or all image."""

    def forward(self, features: Features) -> Conditioning:
        """Aggregate features (b, l, c) to context tokens (b, l, d); tokens are exactly zero at padding.

        Raises:
            ComponentError: features of another width or depth, or without a hidden state that is needed.
        """
        self._check(features)
        text, image = token_places(features)
        aggregated = torch.cat(
            [self.aggregate(features, Modality.TEXT, text), self.aggregate(features, Modality.IMAGE, image)]
        )
        places = text.followed_by(image)
        tokens = self.connector(self.refiner(aggregated, places))
        pooled = self.pooled(tokens, places, features)
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
        return self.connector.project.weight.dtype

    def _check(self, features: Features) -> None:
        width = next((state.shape[2] for state in features.hidden_states if state is not None), self.width)
        if (features.depth, width) != (self.depth, self.width):
            raise ComponentError(
                f"{type(self).__name__} was built for {self.depth} hidden states of width {self.width}, "
                f"but the features have {features.depth} of width {width}"
            )


def token_places(features: Features) -> tuple[TokenPlaces, TokenPlaces]:
    """Where the text tokens and where the image tokens are."""
    image = features.modality == Modality.IMAGE
    return TokenPlaces.of(features.mask & ~image), TokenPlaces.of(image)
