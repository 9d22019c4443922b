"""Several training toys in one picture, side by side in one scene: pairs for training on several subjects."""

from __future__ import annotations

import torch
from pydantic import Field

from subjectgen.core import ChangesResults, Config as BaseConfig, Reference, Sample
from subjectgen.toybox.captions import class_prompt
from subjectgen.toybox.facts import toy_facts, view_facts
from subjectgen.toybox.renderer import render
from subjectgen.toybox.world import SCENES, Draw, is_held_out_combination, random_toy, random_view


class ToyGroups:
    """Pictures of several toys that training may see, a reference of each, and a prompt that names their shapes.

    The target is as many pictures wide as there are toys; toy k stands in the k-th of them. Each sample follows from
    the seed and its number alone. Keys are ``group-00012``; facts are ``toys``, ``scene`` and ``references``, what each
    of them shows.
    """

    class Config(BaseConfig):
        """Options of ``toy_groups``."""

        groups: ChangesResults[int] = Field(default=2000, ge=1)
        """Samples."""
        toys: ChangesResults[int] = Field(default=2, ge=2, le=4)
        """Toys in each picture."""
        size: ChangesResults[int] = Field(default=64, ge=8)
        """Pixels of a reference's side and of the target's height."""
        seed: ChangesResults[int] = Field(default=200, ge=0)
        """Seed of toys and views."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __len__(self) -> int:
        return self.config.groups

    def __getitem__(self, index: int) -> Sample:
        """One group; the same index gives the same group."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        config, draw = self.config, Draw(self.config.seed * 1_000_003 + index)
        toys = [random_toy(draw) for _ in range(config.toys)]
        allowed = [one for one in SCENES if not any(is_held_out_combination(toy, one) for toy in toys)]
        scene = draw.choice(allowed or list(SCENES))
        shown = [random_view(draw, accessories=False) for _ in toys]
        placed = [random_view(draw, scene=scene, accessories=False) for _ in toys]
        pictures = render(toys + toys, shown + placed, size=config.size)
        names = [f"toy-{number}" for number in range(config.toys)]
        return Sample(
            key=f"group-{index:05d}",
            prompt=class_prompt(toys, placed[0], direction=False),
            references=tuple(
                Reference(image=picture, name=name)
                for picture, name in zip(pictures[: config.toys], names, strict=True)
            ),
            target=torch.cat(list(pictures[config.toys :]), dim=2),
            facts={
                "toys": [toy_facts(toy) for toy in toys],
                "scene": scene,
                "references": [view_facts(view) for view in shown],
            },
        )
