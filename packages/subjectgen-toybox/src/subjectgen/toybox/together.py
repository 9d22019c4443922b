"""Several held-out toys in one wide picture: each reference has its own place."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from subjectgen.core import JSON, ChangesResults, Config as BaseConfig, ConfigError, Sample, load_mask
from subjectgen.toybox.captions import class_prompt, subject_prompt
from subjectgen.toybox.datasets import named_references
from subjectgen.toybox.facts import subject_name, toy_facts, view_facts
from subjectgen.toybox.world import FAMILY, SCENES, Draw, View, held_out_toys


def _checked(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    if not (0 <= left < right and 0 <= top < bottom):
        raise ValueError(f"got {box}; expected left, top, right, bottom with 0 <= left < right and 0 <= top < bottom")
    return box


Box = Annotated[tuple[int, int, int, int], AfterValidator(_checked)]
"""Left, top, right, bottom in pixels; the right column and the bottom row are outside."""


class ToysTogether:
    """Groups of held-out toys of different families and colours with a prompt for a scene that no reference shows.

    References are those of ``held_out_toys`` with the same number of toys and the same seed; each has a region mask.
    There are no targets. Sample ``toy * scenes + turn``: each toy comes first in one group.

    Keys are ``toys-003-017-snow-1``: the toys in their places, scene, turn. Facts are ``subjects``, ``classes`` and
    ``toys`` (their numbers), in the order of the references; ``references``, what each of them shows; ``scene``; and
    ``held_out_seed``, which fixes with a number who a toy is.
    """

    class Config(BaseConfig):
        """Options of ``toys_together``."""

        toys: ChangesResults[int] = Field(default=32, ge=1, le=512)
        """Number of identities, in families of four that share colours; those of one group are of different ones."""
        scenes: ChangesResults[int] = Field(default=3, ge=1, le=len(SCENES) - 1)
        """Scenes per group, none of them a reference's; those that the groups before had least."""
        seed: ChangesResults[int] = Field(default=0, ge=0)
        """Seed of toys and views."""
        prompts: ChangesResults[Literal["subject", "class"]] = "subject"
        """``subject``: "the toy", whatever their number. ``class`` names their shapes."""
        height: ChangesResults[int] = Field(default=64, ge=1)
        """Rows of the wide target, in pixels."""
        width: ChangesResults[int] = Field(default=176, ge=1)
        """Columns of the wide target. The tiny base learned 64 x 64 pixels; its fastest rotary frequency repeats after
        2 pi tokens, about 100 pixels, so at 64 x 176 it draws one toy around column 32 and another around 132."""
        regions: ChangesResults[tuple[Box, ...]] = Field(default=((0, 0, 80, 64), (96, 0, 176, 64)), min_length=1)
        """Where each toy shall appear: left, top, right, bottom in pixels. Their number is the number of toys in a
        picture. The defaults are the two halves without the middle token, around the columns where toys appear."""

        @model_validator(mode="after")
        def _enough_scenes(self) -> ToysTogether.Config:
            left = len(SCENES) - len(self.regions)
            if self.scenes > left:
                raise ValueError(
                    f"scenes: got {self.scenes}; expected at most {max(left, 0)}, the scenes that {len(self.regions)} "
                    "references may leave"
                )
            return self

    def __init__(self, config: Config) -> None:
        """Draw the toys and their groups.

        Raises:
            InputError: A region that reaches outside of the picture.
            ConfigError: Too few toys for groups of different colours.
        """
        self.config = config
        self.toys = held_out_toys(config.toys, seed=config.seed)
        self._regions = [self._mask(number) for number in range(len(config.regions))]
        self.groups = [self._group(first) for first in range(config.toys)]
        self.reference_views, self._references = named_references(self.toys, Draw(config.seed + 17))
        self.scenes = self._balanced_scenes()

    def __len__(self) -> int:
        return len(self.groups) * self.config.scenes

    def __getitem__(self, index: int) -> Sample:
        """One group in one scene."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, turn = divmod(index, self.config.scenes)
        references = [
            replace(self._references[toy], region_mask=region)
            for toy, region in zip(self.groups[number], self._regions, strict=True)
        ]
        scene, group = self.scenes[number][turn], self.groups[number]
        return Sample(
            key=f"toys-{'-'.join(f'{toy:03d}' for toy in group)}-{scene}-{turn}",
            prompt=self._prompt(number, View(scene=scene)),
            references=tuple(references),
            facts=self._facts(group, scene),
        )

    def _facts(self, group: tuple[int, ...], scene: str) -> dict[str, JSON]:
        return {
            "subjects": [subject_name(toy) for toy in group],
            "classes": [self.toys[toy].shape for toy in group],
            "toys": list(group),
            "scene": scene,
            "references": [{**toy_facts(self.toys[toy]), **view_facts(self.reference_views[toy])} for toy in group],
            "held_out_seed": self.config.seed,
        }

    def _prompt(self, number: int, view: View) -> str:
        if self.config.prompts == "class":
            return class_prompt([self.toys[toy] for toy in self.groups[number]], view, direction=False)
        return subject_prompt(view, direction=False)

    def _mask(self, number: int) -> Float[Tensor, "1 h w"]:
        left, top, right, bottom = map(float, self.config.regions[number])
        size = (self.config.height, self.config.width)
        return load_mask((left, top, right, bottom), size, label=f"regions.{number}")

    def _balanced_scenes(self) -> list[list[str]]:
        """Scenes of each group: those that fewest groups before it have, and none of its references shows."""
        used, chosen = Counter[str](), list[list[str]]()
        for group in self.groups:
            shown = {self.reference_views[toy].scene for toy in group}
            free = sorted((scene for scene in SCENES if scene not in shown), key=lambda scene: used[scene])
            chosen.append(free[: self.config.scenes])
            used.update(chosen[-1])
        return chosen

    def _group(self, first: int) -> tuple[int, ...]:
        """Toys that can be told apart by colour alone, so that swaps and mixtures are seen.

        Its number in the family is the first toy's where that gives other colours: then all toys occur alike often.
        """
        count, chosen = len(self.config.regions), [first]
        steps = sorted(range(self.config.toys), key=lambda step: (step % FAMILY, step))
        for candidate in ((first + step) % self.config.toys for step in steps):
            if len(chosen) < count and all(self._differ(candidate, toy) for toy in chosen):
                chosen.append(candidate)
        if len(chosen) < count:
            raise ConfigError(
                f"toys: got {self.config.toys}; expected enough for {count} families of {FAMILY} that differ in their "
                f"body colour, such as {4 * FAMILY * count}"
            )
        return tuple(chosen)

    def _differ(self, one: int, other: int) -> bool:
        return one // FAMILY != other // FAMILY and self.toys[one].colour != self.toys[other].colour
