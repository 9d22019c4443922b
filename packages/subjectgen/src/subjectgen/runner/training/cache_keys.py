"""Keys of caches: a hash of the content that something was made of, so that order, place and name cannot matter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import Sample


def picture_key(picture: Float[Tensor, "3 h w"]) -> str:
    """Of one picture: size, data type and every value."""
    return _digest(_picture(picture))


def sample_key(sample: Sample, inputs: frozenset[str]) -> str:
    """Of what an encoder reads of a sample: the prompt, and the references with their masks and weights.

    Keys, names and facts do not count: encoders compute nothing from them, as their contract says.

    Args:
        sample: As the branch sees it; what is hidden is not there.
        inputs: What the encoder reads, ``"text"``, ``"references"`` or both.
    """
    return _digest(_sample(sample, inputs))


def _sample(sample: Sample, inputs: frozenset[str]) -> Iterator[Any]:
    if "text" in inputs:
        yield sample.prompt.encode("utf-8", "surrogatepass")  # encoders have words of their own for bad prompts
    if "references" in inputs:
        for reference in sample.references:
            yield repr(float(reference.weight)).encode()
            for picture in (reference.image, reference.subject_mask, reference.region_mask):
                yield from _picture(picture)


def _picture(picture: Tensor | None) -> Iterator[Any]:
    if picture is None:
        yield b"none"
        return
    yield f"{picture.dtype} {tuple(picture.shape)}".encode()
    yield picture.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _digest(pieces: Iterable[Any]) -> str:
    """Each piece counts with its length, so that nothing can move from one to the next."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.hexdigest()
