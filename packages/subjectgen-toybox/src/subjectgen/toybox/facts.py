"""What the toy data sets know of their samples, as JSON: the ``facts`` of a sample."""

from __future__ import annotations

from collections.abc import Sequence

from subjectgen.core import JSON
from subjectgen.toybox.world import Toy, View


def subject_name(number: int) -> str:
    """What a held-out toy is called: ``toy-003``."""
    return f"toy-{number:03d}"


def toy_facts(toy: Toy) -> dict[str, JSON]:
    """The words of a toy: ``class`` as prompts name it, shape, pattern, part and colours; null where it has none."""
    return {
        "class": toy.shape,
        "shape": toy.shape,
        "pattern": toy.pattern,
        "part": toy.part,
        "colour": toy.colour,
        "second_colour": toy.second_colour,
        "part_colour": toy.part_colour,
    }


def view_facts(view: View) -> dict[str, JSON]:
    """Scene, accessory, and from where the toy is seen, in degrees."""
    return {"scene": view.scene, "accessory": view.accessory, "azimuth": view.azimuth, "polar": view.polar}


def pair_facts(subject: str, number: int, toy: Toy, view: View, references: Sequence[View]) -> dict[str, JSON]:
    """A picture of one toy and references of the same toy.

    The toy's and the target's facts, ``references`` with those of each reference in their order, and ``same_pose``:
    whether some reference shows the toy from where the target does.
    """
    return {
        "subject": subject,
        "toy": number,
        **toy_facts(toy),
        **view_facts(view),
        "references": [view_facts(one) for one in references],
        "same_pose": any((one.azimuth, one.polar) == (view.azimuth, view.polar) for one in references),
    }
