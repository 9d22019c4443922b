"""Toy pictures as samples: training pairs, and held-out toys with prompts for evaluation."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from subjectgen.core import Config as BaseConfig, Reference, Sample
from subjectgen.toybox.captions import caption, random_subject_prompt, subject_prompt
from subjectgen.toybox.renderer import render
from subjectgen.toybox.world import SCENES, Draw, Toy, View, held_out_toys, random_toy, random_view, training_view


class ToyPairs:
    """Two views of one training toy: the first is the reference, the second the target.

    Pictures are rendered when first asked for, a block at a time, and kept as bytes.
    """

    class Config(BaseConfig):
        """Options of ``toy_pairs``."""

        pairs: int = Field(default=8000, ge=1)
        """Number of samples."""
        seed: int = Field(default=100, ge=0)
        """Seed of toys and views."""
        references: int = Field(default=1, ge=1, le=4)
        """Reference pictures per sample, all of the same toy."""
        full_captions: bool = False
        """Describe the toy in the prompt instead of leaving it to the reference."""
        block: int = Field(default=64, ge=1)
        """Samples rendered at once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._blocks: dict[int, tuple[list[str], torch.Tensor]] = {}

    def __len__(self) -> int:
        return self.config.pairs

    def __getitem__(self, index: int) -> Sample:
        """One pair; the same index gives the same pair."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, place = divmod(index, self.config.block)
        if number not in self._blocks:
            self._blocks[number] = self._render(number)
        prompts, images = self._blocks[number]
        pictures = images[place].float() / 255
        references = tuple(Reference(image=picture, name="toy") for picture in pictures[:-1])
        return Sample(prompt=prompts[place], references=references, target=pictures[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Workers render their own blocks."""
        return {"config": self.config, "_blocks": {}}

    def _render(self, number: int) -> tuple[list[str], torch.Tensor]:
        draw = Draw(self.config.seed * 1_000_003 + number)
        toys: list[Toy] = []
        views: list[View] = []
        prompts = []
        for _ in range(self.config.block):
            toy = random_toy(draw)
            target = training_view(draw, toy)
            views += [training_view(draw, toy, accessories=False) for _ in range(self.config.references)] + [target]
            toys += [toy] * (self.config.references + 1)
            prompts.append(caption(toy, target) if self.config.full_captions else random_subject_prompt(draw, target))
        images = (render(toys, views) * 255).round().byte()
        return prompts, images.reshape(self.config.block, self.config.references + 1, *images.shape[1:])


class HeldOutToys:
    """Toys that no training saw, each in several scenes; ``Reference.name`` says which toy it is.

    Targets are real renders of the wanted picture, for metrics that compare with the truth.
    """

    class Config(BaseConfig):
        """Options of ``held_out_toys``."""

        toys: int = Field(default=32, ge=1, le=512)
        """Number of identities, in families of four that share colours."""
        scenes: int = Field(default=3, ge=1, le=len(SCENES))
        """Scenes per toy; they rotate so that all scenes occur equally often."""
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
        """A view in the next scene of the rotation, without accessory, not the reference's scene if that can be."""
        scenes = [scene for scene in SCENES if scene != self.reference_views[number].scene] or list(SCENES)
        return random_view(draw, scene=scenes[(number + turn) % len(scenes)], accessories=False)


def toy_of(name: str) -> int:
    """Number of the toy that ``Reference.name`` names."""
    return int(name.removeprefix("toy-"))
