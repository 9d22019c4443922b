"""An encoder that remembers what it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from subjectgen.core import Encoded, Features, InputError, Latents, Sample
from subjectgen.runner.system.fingerprint import fixed_sample
from subjectgen.runner.training.cache_keys import sample_key
from subjectgen.runner.training.cache_rows import joined, only_row
from subjectgen.runner.training.cache_store import Entry, Store, entry_bytes

CAPABILITIES = ("reads_subject_masks", "prepared", "unknown_words")
"""Members that an encoder may have beyond the protocol, and that the runner asks for."""


class CachedEncoder(nn.Module):
    """Keeps the protocol of the encoder inside it, and asks it once for each content.

    A row that is not known is encoded alone, so that its entry follows from its content and not from the rows it was
    first met with: a run that goes on with an empty cache, or with another order, finds the same bits. What is given
    differs from what the encoder gives to a whole batch by rounding at most. Nothing is kept in less precision than the
    encoder's own.
    """

    def __init__(
        self, encoder: Any, store: Store, *, layers: Sequence[int] | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Wrap an encoder.

        Args:
            encoder: Frozen; it stays as it is.
            store: Of entries that this encoder made, with these layers.
            layers: Hidden states that are kept; ``None``: all.
            device: Where batches shall be.
        """
        super().__init__()
        self.encoder, self._store, self._device = encoder, store, device
        self.inputs, self.width, self.depth = encoder.inputs, encoder.width, encoder.depth
        self.pooled_width = encoder.pooled_width
        self.layers = tuple(range(self.depth)) if layers is None else tuple(sorted(set(layers)))
        self._left = pads_left(encoder)
        for name in CAPABILITIES:
            if hasattr(encoder, name):
                setattr(self, name, getattr(encoder, name))
        self.eval()

    def train(self, mode: bool = True) -> CachedEncoder:
        """Stay in evaluation mode, as every encoder does."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Encoded:
        """Encode a batch; layers that are not kept are not cached.

        Raises:
            InputError: As the encoder says.
        """
        wanted = range(self.depth) if layers is None else layers
        if not samples or not set(wanted) <= set(self.layers):
            return self.encoder.encode(samples, layers=layers)
        rows = [self._row(sample) for sample in samples]
        return joined(rows, layers=set(wanted), depth=self.depth, left=self._left, device=self._device)

    @torch.no_grad()
    def bytes_of(self, sample: Sample) -> int:
        """Bytes of a sample's entry, which is made if it is not there."""
        return entry_bytes(self._row(sample))

    def _row(self, sample: Sample) -> Entry:
        key = sample_key(sample, self.inputs)
        found = self._store.get(key)
        if found is None:
            found = self._store.put(key, only_row(self.encoder.encode([sample], layers=self.layers), self.layers))
        return found


@torch.no_grad()
def pads_left(encoder: Any) -> bool:
    """Whether an encoder puts padding before the tokens of a shorter row; seen in a batch of two."""
    short = fixed_sample()
    longer = replace(short, prompt=f"{short.prompt} {short.prompt}")
    try:
        if "text" not in encoder.inputs:
            if not isinstance(encoder.encode([short], layers=[0]), Features):
                return False  # its rows have one length
            longer = replace(short, references=short.references * 2)
        encoded = encoder.encode([short, longer], layers=[0])
    except InputError:  # words or pictures that it cannot read
        return False
    return not isinstance(encoded, Latents) and encoded.mask.shape[1] > 0 and not bool(encoded.mask[0, 0])
