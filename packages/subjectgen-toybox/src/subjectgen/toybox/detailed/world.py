"""Toys with details: how they are drawn, which no training may see, families of equal words, views in pairs.

A training toy has training words and training details. A held-out toy has held-out words and held-out details, so the
two kinds share neither.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from subjectgen.toybox import world
from subjectgen.toybox.detailed.details import BADGES, CODES, NO_CODE, Details, are_held_out
from subjectgen.toybox.world import Draw, Toy, View

MAX_AZIMUTH = 60.0
"""Degrees; beyond it the badge would be too narrow to read."""
FAMILY = 8
"""Held-out toys that share all words, proportions and shade."""
SHARED_POSE_LIMIT = 15.0
"""Degrees of azimuth; within it, and from the same height, two views share the pose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailedToy(Toy):
    """One identity, in words and below words."""

    details: Details


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPair:
    """Two views of one toy in different scenes."""

    first: View
    second: View
    shared_pose: bool
    """Whether azimuths differ by less than :data:`SHARED_POSE_LIMIT` and the camera stands equally high."""


def is_held_out(toy: DetailedToy) -> bool:
    """Whether words and details are both those of evaluation."""
    return world.is_held_out(toy) and are_held_out(toy.details)


def may_be_trained(toy: DetailedToy) -> bool:
    """Whether words and details are both those of training."""
    return not world.is_held_out(toy) and not are_held_out(toy.details)


def random_details(draw: Draw, *, plain: bool, held_out: bool = False) -> Details:
    """Draw details: only such that are held out, or only others."""
    while True:
        details = Details(
            badge=BADGES[draw.integer(len(BADGES))],
            code=NO_CODE if plain else CODES[draw.integer(len(CODES))],
            tint=(draw.uniform(-1.0, 1.0), draw.uniform(-1.0, 1.0)),
        )
        if are_held_out(details) == held_out:
            return details


def random_toy(draw: Draw, *, held_out: bool = False) -> DetailedToy:
    """Draw a toy of training, or of evaluation."""
    toy = world.random_toy(draw, held_out=held_out)
    return _with_details(toy, random_details(draw, plain=toy.pattern == "plain", held_out=held_out))


def family_of(draw: Draw, count: int, *, held_out: bool = False) -> list[DetailedToy]:
    """Draw toys that differ in details alone; no two have the same badge and code.

    Held-out families have a pattern, since too few badges of plain toys are held out.
    """
    first = random_toy(draw, held_out=held_out)
    while held_out and first.pattern == "plain":
        first = random_toy(draw, held_out=held_out)
    found = {(first.details.badge, first.details.code): first}
    while len(found) < count:
        details = random_details(draw, plain=first.pattern == "plain", held_out=held_out)
        found.setdefault((details.badge, details.code), replace(first, details=details))
    return list(found.values())


def held_out_toys(count: int, *, seed: int = 0) -> list[DetailedToy]:
    """Held-out toys, family after family; a shorter list is the start of a longer one."""
    draw, toys, seen = Draw(seed), list[DetailedToy](), set[tuple[str, ...]]()
    while len(toys) < count:
        family = family_of(draw, FAMILY, held_out=True)
        if family[0].words not in seen:
            seen.add(family[0].words)
            toys += family
    return toys[:count]


def random_view(draw: Draw, *, scene: str | None = None, accessories: bool = True) -> View:
    """Draw a view in which the badge can be read."""
    return _turned(draw, world.random_view(draw, scene=scene, accessories=accessories))


def training_view(draw: Draw, toy: Toy, *, accessories: bool = True) -> View:
    """Draw a view whose scene this kind of toy may have in training."""
    return _turned(draw, world.training_view(draw, toy, accessories=accessories))


def view_pair(draw: Draw, toy: Toy, *, shared_pose: bool, accessories: bool = True) -> ViewPair:
    """Draw a bare view and another one in another scene, with shared or with independent pose.

    Independent poses may come out alike by chance; then the pair is drawn again, so that ``shared_pose`` is exact.
    """
    first = training_view(draw, toy, accessories=False)
    while True:
        second = training_view(draw, toy, accessories=accessories)
        if second.scene == first.scene:
            continue
        if shared_pose:
            near = min(MAX_AZIMUTH, first.azimuth + SHARED_POSE_LIMIT)
            azimuth = draw.uniform(max(-MAX_AZIMUTH, first.azimuth - SHARED_POSE_LIMIT), near)
            second = replace(second, azimuth=azimuth, polar=first.polar)
        if poses_are_shared(first, second) == shared_pose:
            return ViewPair(first=first, second=second, shared_pose=shared_pose)


def poses_are_shared(first: View, second: View) -> bool:
    """Whether two views show a toy from about the same side and from the same height."""
    return first.polar == second.polar and world.angular_difference(first.azimuth, second.azimuth) < SHARED_POSE_LIMIT


def _turned(draw: Draw, view: View) -> View:
    return replace(view, azimuth=draw.uniform(-MAX_AZIMUTH, MAX_AZIMUTH))


def _with_details(toy: Toy, details: Details) -> DetailedToy:
    return DetailedToy(**{field.name: getattr(toy, field.name) for field in fields(Toy)}, details=details)
