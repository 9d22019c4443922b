"""Whether two runs saw the same data: what a data set is, its keys, and the contents of some of its samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from subjectgen.core import Dataset, HasSizes, ListsKeys, Sample
from subjectgen.core.part import Part

SMALL = 64
"""Data sets of at most so many samples are read whole; of larger ones the first, middle and last sample."""


def data_fingerprint(part: Part, dataset: Dataset) -> dict[str, Any]:
    """Options, length, a hash of all keys, and one of the contents that were read.

    Keys of a large data set are hashed if it lists them (:class:`~subjectgen.core.ListsKeys`); to read all of its
    samples would take as long as an epoch.
    """
    count = len(dataset)
    chosen = range(count) if count <= SMALL else sorted({0, count // 2, count - 1})
    read = [sample for index in chosen if (sample := _read(dataset, index)) is not None]
    keys = dataset.keys() if isinstance(dataset, ListsKeys) else [sample.key for sample in read]
    return {
        "part": part.describe(),
        **order_fingerprint(dataset),
        "keys": _digest(key.encode() for key in keys),
        "keys_hashed": len(keys),
        "contents": _digest(piece for sample in read for piece in _contents(sample)),
        "contents_hashed": len(read),
    }


def order_fingerprint(dataset: Dataset) -> dict[str, Any]:
    """What the order of samples depends on: their number, and keys and sizes where the data set says them unread."""
    found: dict[str, Any] = {"samples": len(dataset)}
    if isinstance(dataset, ListsKeys):
        found["keys"] = _digest(key.encode() for key in dataset.keys())  # noqa: SIM118  # no mapping
    if isinstance(dataset, HasSizes):
        found["sizes"] = _digest(f"{height}x{width}".encode() for height, width in dataset.sizes)
    return found


def _read(dataset: Dataset, index: int) -> Sample | None:
    """A sample, or none where it cannot be read: training passes over it and says so."""
    try:
        return dataset[index]
    except Exception:
        return None


def _contents(sample: Sample) -> Iterable[bytes]:
    yield sample.prompt.encode()
    for reference in sample.references:
        yield f"{reference.weight}".encode()
        for picture in (reference.image, reference.subject_mask, reference.region_mask):
            yield _bytes(picture)
    yield _bytes(sample.target)


def _bytes(picture: Tensor | None) -> bytes:
    if picture is None:
        return b""
    return f"{tuple(picture.shape)}".encode() + (picture * 255).round().byte().cpu().numpy().tobytes()


def _digest(pieces: Iterable[bytes]) -> str:
    """Of a list: each piece counts with its length, so that nothing can move from one to the next."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.hexdigest()
