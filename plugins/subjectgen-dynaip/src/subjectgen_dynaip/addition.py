"""What the injector adds in each attention: the cross-attention to every reference, by strength and region.

Shape letters: b rows, n tokens, k references, g tokens of a reference, e width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from subjectgen.core import AttentionLayout, ComponentError


@dataclass(frozen=True, kw_only=True, eq=False)
class Speaker:
    """How one reference speaks: lambda_i and M_i of Eq. 9."""

    strength: Float[Tensor, " b"]
    """0 for rows without this reference."""
    region: Float[Tensor, "b m"] | None = None
    """Share of each target token of ``places``; ``None``: 1 everywhere."""
    places: Int[Tensor, " m"] | None = None
    """Target tokens that the region touches in any row; the others are never computed. ``None``: all."""
    plain: bool = False
    """Whether there is nothing to multiply by."""

    @classmethod
    def everywhere(cls, strength: Float[Tensor, " b"]) -> Speaker:
        """Without a region."""
        return cls(strength=strength, plain=bool((strength == 1).all()))

    @classmethod
    def within(cls, strength: Float[Tensor, " b"], region: Float[Tensor, "b n"]) -> Speaker:
        """Only where the region is not zero."""
        touched = (region * strength[:, None] != 0).any(dim=0)
        if bool(touched.all()):
            return cls(strength=strength, region=region)
        places = touched.nonzero().squeeze(1)
        return cls(strength=strength, region=region[:, places], places=places)


class CrossAttention:
    """An ``AttentionAddition``: sum over references of lambda_i M_i CA(X, C_i), without any attention mask for M_i."""

    def __init__(
        self,
        *,
        keys_values: Mapping[int, tuple[Float[Tensor, "b k heads g e"], Float[Tensor, "b k heads g e"]]],
        mask: Bool[Tensor, "b k g"] | None,
        speakers: Sequence[Speaker],
        streams: Sequence[str],
    ) -> None:
        """Keep what is the same at every step: keys and values by attention site, and who speaks where.

        Args:
            keys_values: keys and values of every reference, by index of the site; other sites are left alone.
            mask: True at tokens of a reference that are not padding; ``None`` if there is no padding.
            speakers: one per reference.
            streams: tokens that read: ``text``, ``image`` (the target), ``references``.
        """
        self._keys_values = dict(keys_values)
        self._mask = mask
        self._speakers = tuple(speakers)
        self._streams = frozenset(streams)

    def __call__(
        self,
        site: int,
        query: Float[Tensor, "b n heads e"],
        output: Float[Tensor, "b n heads e"],
        layout: AttentionLayout,
    ) -> Float[Tensor, "b n heads e"]:
        """The output with the cross-attention added at the tokens that read (Eq. 3, 5 and 9)."""
        if site not in self._keys_values:
            return output
        keys, values = self._like(query, site)
        self._check_readers(layout)
        start, stop = self._span(layout)
        added: Tensor | None = None
        for place, speaker in enumerate(self._speakers):
            mask = None if self._mask is None else self._mask[:, place, None, None, :]
            for rows, weight in self._readers(speaker, layout):
                read = functional.scaled_dot_product_attention(
                    query[:, rows].transpose(1, 2), keys[:, place], values[:, place], attn_mask=mask
                ).transpose(1, 2)
                read = read if weight is None else read * weight.to(read)[:, :, None, None]
                added = _accumulated(added, read, rows, start, stop)
        if added is None:
            return output
        if torch.is_grad_enabled():
            return torch.cat([output[:, :start], output[:, start:stop] + added, output[:, stop:]], dim=1)
        output[:, start:stop] += added  # in place: a copy of all tokens costs a fifth of the attention on a CPU
        return output

    def _like(self, query: Tensor, site: int) -> tuple[Tensor, Tensor]:
        """Keys and values in the backbone's dtype; cast once where no gradient would have to find its way back."""
        keys, values = (part.to(query) for part in self._keys_values[site])
        if not torch.is_grad_enabled() and not self._keys_values[site][0].requires_grad:
            self._keys_values[site] = keys, values
        return keys, values

    def _check_readers(self, layout: AttentionLayout) -> None:
        if self._streams == {"references"} and layout.references.start == layout.references.stop:
            raise ComponentError(
                "injector 'cross_attention': only streams: [references] reads, but there are no reference tokens; "
                "expected image, or a branch with reference_tokens"
            )

    def _span(self, layout: AttentionLayout) -> tuple[int, int]:
        """From the first token that reads to the last."""
        chosen = [tokens for name, tokens in _streams(layout) if name in self._streams]
        return min((tokens.start for tokens in chosen), default=0), max((tokens.stop for tokens in chosen), default=0)

    def _readers(self, speaker: Speaker, layout: AttentionLayout) -> list[tuple[slice | Tensor, Tensor | None]]:
        """Tokens that read from this reference, and the weight of what they read; ``None`` is 1."""
        strength = None if speaker.plain else speaker.strength[:, None]
        chosen: list[tuple[slice | Tensor, Tensor | None]] = []
        for name, tokens in _streams(layout):
            if name not in self._streams:
                continue
            if name != "image" or speaker.region is None:
                chosen.append((tokens, strength))
            elif speaker.places is None:
                chosen.append((tokens, speaker.strength[:, None] * speaker.region))
            elif len(speaker.places):
                chosen.append((speaker.places + tokens.start, speaker.strength[:, None] * speaker.region))
        return _joined(chosen)


def _streams(layout: AttentionLayout) -> list[tuple[str, slice]]:
    """Names and places of those that have tokens, as they follow each other: every family has its own order."""
    named = (("text", layout.context), ("image", layout.target), ("references", layout.references))
    return sorted((pair for pair in named if pair[1].start < pair[1].stop), key=lambda pair: int(pair[1].start))


def _joined(chosen: list[tuple[slice | Tensor, Tensor | None]]) -> list[tuple[slice | Tensor, Tensor | None]]:
    """Neighbouring streams of equal weight as one call of attention."""
    joined: list[tuple[slice | Tensor, Tensor | None]] = []
    for tokens, weight in chosen:
        before, same = joined[-1] if joined else (None, None)
        if isinstance(tokens, slice) and isinstance(before, slice) and before.stop == tokens.start and same is weight:
            joined[-1] = (slice(before.start, tokens.stop), weight)
        else:
            joined.append((tokens, weight))
    return joined


def _accumulated(added: Tensor | None, read: Tensor, rows: slice | Tensor, start: int, stop: int) -> Tensor:
    """What has been read so far by the tokens from ``start`` to ``stop``."""
    if isinstance(rows, slice):
        before, after = rows.start - start, stop - rows.stop
        if before or after:
            read = functional.pad(read, (0, 0, 0, 0, before, after))
        return read if added is None else added + read
    if added is None:
        added = read.new_zeros(read.shape[0], stop - start, *read.shape[2:])
    return added.index_add(1, rows - start, read)
