"""What is said about a toy: full captions, prompts for a referenced toy, questions with answers. A closed grammar.

caption  = "a" toy [facing] [scene] [wearing]
toy      = colours pattern shape ["with" colour part]
prompt   = ("the toy" | "a" shape {"and a" shape}) [facing] [scene] [wearing]
"""

from __future__ import annotations

from collections.abc import Sequence

from subjectgen.toybox.world import Draw, Toy, View

SCENE_PHRASES: dict[str, str] = {
    "snow": "in the snow",
    "beach": "on the beach",
    "meadow": "in a meadow",
    "night": "at night",
    "sunset": "at sunset",
    "room": "in a room",
}


def describe_toy(toy: Toy) -> str:
    """``red and blue striped box with yellow ears``."""
    colours = toy.colour if toy.second_colour is None else f"{toy.colour} and {toy.second_colour}"
    words = f"{colours} {toy.pattern} {toy.shape}"
    return words if toy.part_colour is None else f"{words} with {toy.part_colour} {toy.part}"


def _surroundings(view: View, *, direction: bool, scene: bool) -> list[str]:
    phrases = [f"facing {view.direction}"] if direction else []
    phrases += [SCENE_PHRASES[view.scene]] if scene else []
    return phrases if view.accessory == "nothing" else [*phrases, f"wearing a {view.accessory}"]


def caption(toy: Toy, view: View, *, direction: bool = True, scene: bool = True) -> str:
    """Everything that words can say of the picture."""
    return " ".join([f"a {describe_toy(toy)}", *_surroundings(view, direction=direction, scene=scene)])


def subject_prompt(view: View, *, direction: bool = True, scene: bool = True) -> str:
    """A prompt that leaves the toy itself to the reference picture."""
    return " ".join(["the toy", *_surroundings(view, direction=direction, scene=scene)])


def class_prompt(toys: Sequence[Toy], view: View, *, direction: bool = True, scene: bool = True) -> str:
    """A prompt that names each toy's shape and leaves all else to its reference: ``a box and a cone in the snow``."""
    names = " and ".join(f"a {toy.shape}" for toy in toys)
    return " ".join([names, *_surroundings(view, direction=direction, scene=scene)])


def random_caption(draw: Draw, toy: Toy, view: View) -> str:
    """A caption that sometimes leaves out the direction or the scene."""
    return caption(toy, view, direction=draw.uniform(0.0, 1.0) < 0.7, scene=draw.uniform(0.0, 1.0) < 0.95)


def random_subject_prompt(draw: Draw, view: View) -> str:
    """A prompt that names the direction half of the time."""
    return subject_prompt(view, direction=draw.uniform(0.0, 1.0) < 0.5, scene=draw.uniform(0.0, 1.0) < 0.97)


def questions(toy: Toy, view: View) -> list[tuple[str, str]]:
    """Every question with its answer."""
    return [
        ("describe the toy", f"a {describe_toy(toy)}"),
        ("what shape is the toy ?", toy.shape),
        ("what pattern does the toy have ?", toy.pattern),
        ("what colour is the toy ?", toy.colour),
        ("what is the second colour ?", toy.second_colour or "nothing"),
        ("what does the toy have ?", toy.part),
        ("what colour is the part ?", toy.part_colour or "nothing"),
        ("what does the toy wear ?", view.accessory),
        ("where is the toy facing ?", view.direction),
        ("where is the toy ?", SCENE_PHRASES[view.scene]),
    ]
