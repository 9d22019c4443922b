"""A sample before its pictures are read: what is said of it, and where each picture lies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from subjectgen.core import JSON, KEY
from subjectgen.datasets.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceEntry:
    """One reference of a sample."""

    picture: Source
    subject_mask: Source | None = None
    region_mask: Source | None = None
    weight: float = 1.0
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One sample."""

    key: str
    prompt: str
    target: Source | None
    references: tuple[ReferenceEntry, ...]
    facts: Mapping[str, JSON] = field(default_factory=dict)
    place: str
    """File with line or number, for messages."""


@runtime_checkable
class HasEntries(Protocol):
    """A data set that can say where a sample's pictures lie: packing it keeps their bytes as they are."""

    def entry(self, index: int) -> Entry:
        """What the sample is made of.

        Raises:
            IndexError: Past the end.
            SampleError: It cannot be read.
        """
        ...


def as_key(text: str) -> str:
    """A key for a name that may hold any letters: the name itself where it is one, else made of it with a hash."""
    if KEY.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-")[:100] or "sample"
    return f"{plain}-{digest}"
