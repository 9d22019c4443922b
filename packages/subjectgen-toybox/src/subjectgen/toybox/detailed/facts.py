"""What a sample of detailed toys knows beyond the words' facts, as JSON."""

from __future__ import annotations

from subjectgen.core import JSON
from subjectgen.toybox import facts
from subjectgen.toybox.detailed.world import DetailedToy, ViewPair


def detail_facts(toy: DetailedToy) -> dict[str, JSON]:
    """Badge and pattern code as numbers whose bits are the cells, and the tint."""
    details = toy.details
    return {"badge": details.badge, "code": details.code, "tint": list(details.tint)}


def pair_facts(subject: str, number: int, toy: DetailedToy, pair: ViewPair) -> dict[str, JSON]:
    """A picture of a toy and a reference of the same toy: ``pair.second`` and ``pair.first``.

    ``same_pose`` says whether the pair was made with a shared pose, as pairs of a generator are that draws both
    pictures at once: the same height of the camera, and less than 15 degrees of azimuth apart.
    """
    known = facts.pair_facts(subject, number, toy, pair.second, [pair.first])
    return {**known, **detail_facts(toy), "same_pose": pair.shared_pose}
