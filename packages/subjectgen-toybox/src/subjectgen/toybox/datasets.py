"""Toy pictures as samples: training pairs, and held-out toys with prompts for evaluation."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any, Literal

from jaxtyping import UInt8
from pydantic import Field, model_validator
from torch import Tensor

from subjectgen.core import Config as BaseConfig, Reference, Sample
from subjectgen.toybox.captions import caption, random_subject_prompt, subject_prompt
from subjectgen.toybox.renderer import render
from subjectgen.toybox.world import SCENES, Draw, Toy, View, held_out_toys, random_toy, random_view, training_view


class ToyPairs:
    """Pictures of training toys in pairs: some views are references, another one is the target.

    A toy is rendered ``views`` times when it is first asked for, a block of toys at a time, and every ordered pair of
    its views is a sample. References wear nothing; targets may.
    """

    class Config(BaseConfig):
        """Options of ``toy_pairs``."""

        toys: int = Field(default=2500, ge=1)
        """Number of identities."""
        views: int = Field(default=4, ge=2, le=16)
        """Pictures of each toy; the first half, at least ``references`` of them, may be references."""
        references: int = Field(default=1, ge=1, le=4)
        """Reference pictures per sample, all of the same toy."""
        seed: int = Field(default=100, ge=0)
        """Seed of toys and views."""
        full_captions: bool = False
        """Describe the toy in the prompt instead of leaving it to the reference."""
        block: int = Field(default=64, ge=1)
        """Toys rendered at once."""

        @model_validator(mode="after")
        def _enough_views(self) -> ToyPairs.Config:
            if self.views <= self.references:
                raise ValueError(f"views: got {self.views}; expected more than references, {self.references}")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        bare = max(config.views // 2, config.references)
        self._roles = [
            (chosen, target)
            for chosen in combinations(range(bare), config.references)
            for target in range(config.views)
            if target not in chosen
        ]
        self._bare = bare
        self._blocks: dict[int, tuple[list[list[str]], UInt8[Tensor, "toys views 3 h w"]]] = {}

    def __len__(self) -> int:
        return self.config.toys * len(self._roles)

    def __getitem__(self, index: int) -> Sample:
        """One pair; the same index gives the same pair."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        toy, role = divmod(index, len(self._roles))
        number, place = divmod(toy, self.config.block)
        if number not in self._blocks:
            self._blocks[number] = self._render(number)
        prompts, images = self._blocks[number]
        chosen, target = self._roles[role]
        pictures = images[place].float() / 255
        return Sample(
            prompt=prompts[place][target],
            references=tuple(Reference(image=pictures[view], name=f"training-toy-{toy:05d}") for view in chosen),
            target=pictures[target],
        )

    def __getstate__(self) -> dict[str, Any]:
        """Workers render their own blocks."""
        return {**self.__dict__, "_blocks": {}}

    def _render(self, number: int) -> tuple[list[list[str]], UInt8[Tensor, "toys views 3 h w"]]:
        draw = Draw(self.config.seed * 1_000_003 + number)
        toys: list[Toy] = []
        views: list[View] = []
        prompts: list[list[str]] = []
        count = min(self.config.block, self.config.toys - number * self.config.block)
        for _ in range(count):
            toy = random_toy(draw)
            shown = [training_view(draw, toy, accessories=view >= self._bare) for view in range(self.config.views)]
            toys += [toy] * len(shown)
            views += shown
            prompts.append([self._prompt(draw, toy, view) for view in shown])
        images = (render(toys, views) * 255).round().byte()
        return prompts, images.reshape(count, self.config.views, *images.shape[1:])

    def _prompt(self, draw: Draw, toy: Toy, view: View) -> str:
        return caption(toy, view) if self.config.full_captions else random_subject_prompt(draw, view)


class HeldOutToys:
    """Toys that no training saw, each in several scenes; ``Reference.name`` says which toy it is.

    Targets are real renders of the wanted picture, for metrics that compare with the truth.
    """

    class Config(BaseConfig):
        """Options of ``held_out_toys``."""

        toys: int = Field(default=32, ge=1, le=512)
        """Number of identities, in families of four that share colours."""
        scenes: int = Field(default=3, ge=1, le=len(SCENES) - 1)
        """Scenes per toy, none of them the reference's; they rotate so that all occur about equally often."""
        seed: int = Field(default=0, ge=0)
        """Seed of toys and views."""
        prompts: Literal["subject", "full"] = "subject"
        """``subject`` leaves the toy to the reference, ``full`` describes it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.toys = held_out_toys(config.toys, seed=config.seed)
        draw = Draw(config.seed + 17)
        self.reference_views = [random_view(draw, accessories=False) for _ in self.toys]
        self.target_views = [
            [self._target(draw, number, turn) for turn in range(config.scenes)] for number in range(config.toys)
        ]
        self._references = [
            Reference(image=image, name=f"toy-{number:03d}")
            for number, image in enumerate(render(self.toys, self.reference_views))
        ]

    def __len__(self) -> int:
        return self.config.toys * self.config.scenes

    def __getitem__(self, index: int) -> Sample:
        """Sample ``toy * scenes + turn``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, turn = divmod(index, self.config.scenes)
        toy, view = self.toys[number], self.target_views[number][turn]
        prompt = caption(toy, view) if self.config.prompts == "full" else subject_prompt(view, direction=False)
        return Sample(prompt=prompt, references=(self._references[number],), target=render([toy], [view])[0])

    def _target(self, draw: Draw, number: int, turn: int) -> View:
        """A view in the next scene of the rotation, without accessory, never in the reference's scene."""
        scenes = [scene for scene in SCENES if scene != self.reference_views[number].scene]
        return random_view(draw, scene=scenes[(number + turn) % len(scenes)], accessories=False)


def toy_of(name: str | None) -> int | None:
    """Number of the held-out toy that ``Reference.name`` names; ``None`` for any other name."""
    found = re.fullmatch(r"toy-(\d+)", name or "")
    return int(found[1]) if found else None
