"""Conditioning tokens on the backbone's text stream, where FLUX had T5's."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from subjectgen.core import Backbone, ComponentError, Conditioning, Config as BaseConfig, Latents, Streams, TokenGroup


class ContextInjector(nn.Module):
    """Appends tokens to the context, and hands on the pooled vector."""

    class Config(BaseConfig):
        """Nothing to set."""

    accepts = Conditioning

    def __init__(self, config: Config, *, backbone: Backbone) -> None:
        """Take the widths from the backbone; nothing is changed in it."""
        super().__init__()
        self.config = config
        self.width: int = backbone.context_width
        self.pooled_width: int | None = backbone.pooled_width

    def forward(self, streams: Streams, conditioning: Conditioning | Latents) -> Streams:
        """The streams with these tokens at the end of the context.

        Raises:
            ComponentError: tokens or a pooled vector of another width, a pooled vector that is the second or that the
                backbone has no input for, or latents.
        """
        if not isinstance(conditioning, Conditioning):
            raise ComponentError("injector 'context' got latents; expected conditioning tokens (use reference_tokens)")
        _check_width("tokens", conditioning.tokens, self.width)
        group = TokenGroup(tokens=conditioning.tokens, mask=conditioning.mask)
        return replace(
            streams, context=(*streams.context, group), pooled=self._pooled(streams.pooled, conditioning.pooled)
        )

    def _pooled(self, before: Tensor | None, new: Tensor | None) -> Tensor | None:
        if new is None:
            return before
        if self.pooled_width is None:
            raise ComponentError(
                "injector 'context' got a pooled vector, which the backbone has no input for; expected none"
                " (set pooled: none in the aggregator)"
            )
        if before is not None:
            raise ComponentError(
                "two active branches give a pooled vector; expected at most one (set pooled: none in the other)"
            )
        _check_width("a pooled vector", new, self.pooled_width)
        return new


def _check_width(what: str, tensor: Tensor, expected: int) -> None:
    if tensor.shape[-1] != expected:
        raise ComponentError(
            f"injector 'context' got {what} of width {tensor.shape[-1]}; the backbone takes width {expected}"
        )
