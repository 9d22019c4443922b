"""What encoders give, row by row: cut free of padding to be kept, and joined into a batch again.

Shape letters: b rows, l tokens of a sequence, c width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor

from subjectgen.core import Conditioning, Encoded, Features, InputError, Latents, Modality
from subjectgen.runner.training.cache_store import Entry


class Kind(IntEnum):
    """What an entry was."""

    FEATURES = 0
    LATENTS = 1
    CONDITIONING = 2


def only_row(encoded: Encoded, layers: Collection[int]) -> dict[str, Tensor]:
    """A batch of one row as an entry, without its padding and in its own data types.

    ``layers``: hidden states that are kept, also where the encoder gives more.
    """
    if isinstance(encoded, Latents):
        named = {f"latents.{number}": value[0] for number, value in enumerate(encoded.values)}
        return {"kind": torch.tensor(Kind.LATENTS), **named}
    pooled = {} if encoded.pooled is None else {"pooled": encoded.pooled[0]}
    if isinstance(encoded, Conditioning):
        named = {"tokens": encoded.tokens} | ({} if encoded.reference is None else {"reference": encoded.reference})
        return {"kind": torch.tensor(Kind.CONDITIONING), **_cut(named, encoded.mask), **pooled}
    states = {layer: value for layer, value in enumerate(encoded.hidden_states) if layer in layers}
    named = {f"state.{layer}": value for layer, value in states.items() if value is not None}
    named |= {"modality": encoded.modality, "reference": encoded.reference}
    named |= {} if encoded.class_token is None else {"class_token": encoded.class_token}
    named |= {} if encoded.image_features is None else {"image_features": encoded.image_features}
    normalized = {"last_layer_normalized": torch.tensor(encoded.last_layer_normalized)}
    return {"kind": torch.tensor(Kind.FEATURES), **_cut(named, encoded.mask), **pooled, **normalized}


def joined(
    rows: Sequence[Entry], *, layers: Collection[int], depth: int, left: bool, device: torch.device | str
) -> Encoded:
    """Rows as a batch.

    Args:
        rows: Entries of one encoder.
        layers: Hidden states that are wanted; the others are ``None``.
        depth: Hidden states of the encoder.
        left: Whether padding comes before a row's tokens.
        device: Where the batch shall be.

    Raises:
        InputError: Latents of rows with different numbers or sizes of references.
    """
    kind = Kind(int(rows[0]["kind"]))
    if kind is Kind.LATENTS:
        return Latents(values=tuple(_stacked(rows, name, device) for name in rows[0] if name != "kind"))
    pooled = torch.stack([row["pooled"] for row in rows]).to(device) if "pooled" in rows[0] else None
    if kind is Kind.CONDITIONING:
        reference = _padded(rows, "reference", -1, left).to(device) if "reference" in rows[0] else None
        present = [{"mask": torch.ones(len(row["tokens"]), dtype=torch.bool)} for row in rows]
        tokens, mask = _padded(rows, "tokens", 0, left), _padded(present, "mask", False, left)
        return Conditioning(tokens=tokens.to(device), mask=mask.to(device), pooled=pooled, reference=reference)
    states = [_padded(rows, f"state.{n}", 0, left).to(device) if n in layers else None for n in range(depth)]
    return Features(
        hidden_states=tuple(states),
        modality=_padded(rows, "modality", int(Modality.PADDING), left).to(device),
        reference=_padded(rows, "reference", -1, left).to(device),
        class_token=_optional(rows, "class_token", left, device),
        image_features=_optional(rows, "image_features", left, device),
        pooled=pooled,
        last_layer_normalized=bool(rows[0]["last_layer_normalized"]),
    )


def _cut(named: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    return {name: value[0][mask[0]] for name, value in named.items()}


def _stacked(rows: Sequence[Entry], name: str, device: torch.device | str) -> Tensor:
    found = [row[name] for row in rows if name in row]
    if len(found) < len(rows) or any(len(row) != len(rows[0]) for row in rows):
        raise InputError("rows of one batch have different numbers of references; expected equally many")
    if len({value.shape for value in found}) > 1:
        raise InputError(f"{name}: references have different sizes in one batch; expected one size")
    return torch.stack(found).to(device)


def _optional(rows: Sequence[Entry], name: str, left: bool, device: torch.device | str) -> Tensor | None:
    """What rows without images lack, a batch holds for them as zeros."""
    like = next((row[name] for row in rows if name in row), None)
    if like is None:
        return None
    filled = [{name: row.get(name, like.new_zeros(len(row["modality"]), *like.shape[1:]))} for row in rows]
    return _padded(filled, name, 0, left).to(device)


def _padded(rows: Sequence[Entry], name: str, fill: float, left: bool) -> Tensor:
    values = [row[name] for row in rows]
    longest = max(len(value) for value in values)
    batch = values[0].new_full((len(values), longest, *values[0].shape[1:]), fill)
    for row, value in zip(batch, values, strict=True):
        row[longest - len(value) if left else 0 :][: len(value)] = value
    return batch
