"""Tar shards with WebDataset's naming, read at random: any tool can write them, and read what we write.

Members whose names are alike up to the first dot are one sample:

====================================  ===============================================================================
``key.json``                          ``{"prompt": ..., "facts": {...}, "references": [{"name": ..., "weight": ...}]}``;
                                      all but the prompt may be missing, and any other key is one of the facts
``key.txt``                           the prompt, where the JSON has none
``key.target.jpg`` or ``key.jpg``     the target; any format of pictures
``key.reference0.jpg`` ...            references; ``key.reference.jpg`` is number 0
``key.mask0.png``, ``key.region0.png``  the subject in a reference; where it shall appear in the target
====================================  ===============================================================================

Members may stand in any order; those with other endings are left alone. A dot within a key is written ``~``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from subjectgen.core import JSON, ChangesNothing, valid_text
from subjectgen.core.errors import InputError
from subjectgen.datasets.base import EntryDataset
from subjectgen.datasets.entries import Entry, ReferenceEntry
from subjectgen.datasets.left_out import LeftOut
from subjectgen.datasets.reading import UnreadableSampleError
from subjectgen.datasets.sizing import SizedConfig
from subjectgen.datasets.sources import SliceSource
from subjectgen.datasets.storage import matching
from subjectgen.datasets.tar_index import TarIndex


class TarShards(EntryDataset):
    """Samples from tar files.

    Where the members of every sample lie is found once, from each tar's index or from its headers, and kept as a few
    numbers. Reading opens, reads a range and closes: nothing is shared between processes. Nothing is written.
    """

    class Config(SizedConfig):
        """Options of ``tar_shards``."""

        shards: ChangesNothing[str | tuple[str, ...]]
        """A tar, a glob such as ``data/*.tar``, an fsspec URL of either, or a list of them, in this order."""

    config: Config

    def __init__(self, config: Config) -> None:
        """Find the members.

        Raises:
            InputError: No such file, no tar, an index of another tar, or no sample that can be used.
        """
        patterns = [config.shards] if isinstance(config.shards, str) else list(config.shards)
        left_out = LeftOut()
        self._index = TarIndex([place for pattern in patterns for place in matching(pattern)], left_out)
        left_out.tell(", ".join(patterns)[:200], len(self._index), "samples and members")
        super().__init__(config, len(self._index))
        self.left_out = left_out

    def keys(self) -> Sequence[str]:
        """From the members' names."""
        return [self._index.key(index) for index in range(len(self))]

    def entry(self, index: int) -> Entry:
        """One sample; its JSON is read."""
        self.check_index(index)
        place, roles = self._index.place(index), self._index.roles(index)
        told = _told(place, roles)
        facts: dict[str, JSON] = {
            name: value for name, value in told.items() if name not in ("prompt", "facts", "references", "key")
        }
        numbers = sorted(number for role, number in roles if role == "reference")
        described = told.get("references") or [{}] * len(numbers)
        return Entry(
            key=self._index.key(index),
            prompt=_prompt(place, told, roles),
            target=roles.get(("target", 0)),
            references=tuple(_reference(place, roles, number, described[number]) for number in numbers),
            facts={**facts, **(told.get("facts") or {})},
            place=place,
        )


Roles = Mapping[tuple[str, int], SliceSource]
"""Members of a sample by what they are and their number."""


def _told(place: str, roles: Roles) -> dict[str, Any]:
    """What the JSON says, seen to be of the right kinds."""
    source = roles.get(("json", 0))
    if source is None:
        return {}
    try:
        told = json.loads(source.read().decode("utf-8-sig"))
        _check_told(told, sum(role == "reference" for role, _ in roles))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableSampleError.of(place, "json: cannot be read", f"{source.name}: {error}") from error
    return dict(told)


def _check_told(told: Any, count: int) -> None:
    """Raises:
    ValueError: Something is of another kind than it must be, or a number is not finite.
    """
    if not isinstance(told, dict) or not isinstance(told.get("facts") or {}, dict):
        raise ValueError("expected a mapping, and another in facts")
    described = told.get("references") or []
    if not isinstance(described, list) or not all(isinstance(one, dict) for one in described):
        raise ValueError("references: expected a list of mappings")
    if described and len(described) != count:
        raise ValueError(f"references: says {len(described)}, but {count} are there")
    json.dumps(told, allow_nan=False)


def _prompt(place: str, told: Mapping[str, Any], roles: Roles) -> str:
    source = roles.get(("txt", 0))
    try:
        if "prompt" in told:
            return valid_text(told["prompt"], "prompt")
        if source is not None:
            return source.read().decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError, InputError) as error:
        raise UnreadableSampleError.of(place, "prompt: cannot be read", f"prompt: {error}") from error
    raise UnreadableSampleError.of(place, "prompt is missing", "no prompt in its JSON, and no key.txt")


def _reference(place: str, roles: Roles, number: int, described: Mapping[str, Any]) -> ReferenceEntry:
    weight, name = described.get("weight", 1.0), described.get("name")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise UnreadableSampleError.of(place, "weight is no number", f"references.{number}.weight: got {weight!r:.40}")
    if name is not None and not isinstance(name, str):
        raise UnreadableSampleError.of(place, "name is no text", f"references.{number}.name: got {name!r:.40}")
    return ReferenceEntry(
        picture=roles["reference", number],
        subject_mask=roles.get(("mask", number)),
        region_mask=roles.get(("region", number)),
        weight=float(weight),
        name=name,
    )
