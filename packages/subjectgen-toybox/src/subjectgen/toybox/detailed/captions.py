"""Captions of two pictures of one toy side by side. Details have no words: see :mod:`subjectgen.toybox.captions`.

caption = "a" toy ":" "first picture" [facing] scene [wearing] "," "second picture" [facing] scene [wearing]
"""

from __future__ import annotations

from subjectgen.toybox.captions import SCENE_PHRASES, describe_toy
from subjectgen.toybox.world import Draw, Toy, View

LONGEST = 31
"""Words of the longest caption."""


def side_by_side_caption(toy: Toy, left: View, right: View, *, direction: bool = True) -> str:
    """What words can say of two pictures, side by side, that show one toy."""
    pictures = (("first", left), ("second", right))
    told = " , ".join(f"{order} picture {_surroundings(view, direction=direction)}" for order, view in pictures)
    return f"a {describe_toy(toy)} : {told}"


def random_side_by_side_caption(draw: Draw, toy: Toy, left: View, right: View) -> str:
    """A caption that sometimes leaves out the directions."""
    return side_by_side_caption(toy, left, right, direction=draw.uniform(0.0, 1.0) < 0.7)


def _surroundings(view: View, *, direction: bool) -> str:
    facing = f"facing {view.direction} " if direction else ""
    wearing = "" if view.accessory == "nothing" else f" wearing a {view.accessory}"
    return f"{facing}{SCENE_PHRASES[view.scene]}{wearing}"
