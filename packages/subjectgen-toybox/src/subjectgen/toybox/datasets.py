"""Toy pictures as samples: training pairs, and held-out toys with prompts for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from jaxtyping import Bool, UInt8
from pydantic import Field, model_validator
from torch import Tensor

from subjectgen.core import ChangesResults, Config as BaseConfig, Reference, Sample
from subjectgen.toybox.captions import caption, class_prompt, random_subject_prompt, subject_prompt
from subjectgen.toybox.facts import pair_facts, subject_name
from subjectgen.toybox.renderer import render, render_with_masks
from subjectgen.toybox.world import SCENES, Draw, Toy, View, held_out_toys, random_toy, random_view, training_view

_Role = tuple[tuple[int, ...], int]
"""Which views are references and which is the target."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Toys that were rendered at once."""

    toys: list[Toy]
    views: list[list[View]]
    prompts: list[list[str]]
    images: UInt8[Tensor, "toys views 3 h w"]
    masks: Bool[Tensor, "toys views 1 h w"]


class ToyPairs:
    """Pictures of training toys in pairs: some views are references, another one is the target.

    A toy is rendered ``views`` times when it is first asked for, a block of toys at a time, and every ordered pair of
    its views is a sample. References wear nothing; targets may. In intra pairs both are one picture, which may.

    Keys are ``training-toy-00012-from-0-to-3``: the toy, the views that are references, the view that is the target.
    Facts are those of :func:`subjectgen.toybox.facts.pair_facts` and ``training_seed``.
    """

    class Config(BaseConfig):
        """Options of ``toy_pairs``."""

        toys: ChangesResults[int] = Field(default=2500, ge=1)
        """Number of identities."""
        views: ChangesResults[int] = Field(default=4, ge=2, le=16)
        """Pictures of each toy; the first half, at least ``references`` of them, may be references."""
        references: ChangesResults[int] = Field(default=1, ge=1, le=4)
        """Reference pictures per sample, all of the same toy."""
        pairs: ChangesResults[Literal["cross", "intra"]] = "cross"
        """``cross``: references are other views of the toy. ``intra``: the reference is the target's own picture."""
        seed: ChangesResults[int] = Field(default=100, ge=0)
        """Seed of toys and views."""
        full_captions: ChangesResults[bool] = False
        """Describe the toy in the prompt instead of leaving it to the reference."""
        block: ChangesResults[int] = Field(default=64, ge=1)
        """Toys drawn and rendered at once; another number gives other toys."""

        @model_validator(mode="after")
        def _enough_views(self) -> ToyPairs.Config:
            if self.views <= self.references:
                raise ValueError(f"views: got {self.views}; expected more than references, {self.references}")
            if self.pairs == "intra" and self.references != 1:
                raise ValueError(
                    f"references: got {self.references}; expected 1 with pairs: intra (the target is its own)"
                )
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self._bare = max(config.views // 2, config.references)
        self._roles = _own_roles(config.views) if config.pairs == "intra" else self._other_roles()
        self._blocks: dict[int, _Block] = {}

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
        block, (chosen, target) = self._blocks[number], self._roles[role]
        pictures, masks = block.images[place].float() / 255, block.masks[place].float()
        subject, views = f"training-toy-{toy:05d}", block.views[place]
        facts = pair_facts(subject, toy, block.toys[place], views[target], [views[view] for view in chosen])
        return Sample(
            key=f"{subject}-from-{'-'.join(map(str, chosen))}-to-{target}",
            prompt=block.prompts[place][target],
            references=tuple(
                Reference(image=pictures[view], subject_mask=masks[view], name=subject) for view in chosen
            ),
            target=pictures[target],
            facts={**facts, "training_seed": self.config.seed},
        )

    def __getstate__(self) -> dict[str, Any]:
        """Workers render their own blocks."""
        return {**self.__dict__, "_blocks": {}}

    def _other_roles(self) -> list[_Role]:
        """Every choice of bare views as references, with every view that is not among them as the target."""
        return [
            (chosen, target)
            for chosen in combinations(range(self._bare), self.config.references)
            for target in range(self.config.views)
            if target not in chosen
        ]

    def _render(self, number: int) -> _Block:
        draw = Draw(self.config.seed * 1_000_003 + number)
        toys: list[Toy] = []
        views: list[list[View]] = []
        prompts: list[list[str]] = []
        count = min(self.config.block, self.config.toys - number * self.config.block)
        for _ in range(count):
            toy = random_toy(draw)
            shown = [training_view(draw, toy, accessories=view >= self._bare) for view in range(self.config.views)]
            toys.append(toy)
            views.append(shown)
            prompts.append([self._prompt(draw, toy, view) for view in shown])
        each = [toy for toy in toys for _ in range(self.config.views)]
        pictures, masks = render_with_masks(each, [view for shown in views for view in shown])
        images = (pictures * 255).round().byte()
        return _Block(
            toys=toys,
            views=views,
            prompts=prompts,
            images=images.unflatten(0, (count, self.config.views)),
            masks=masks.unflatten(0, (count, self.config.views)),
        )

    def _prompt(self, draw: Draw, toy: Toy, view: View) -> str:
        return caption(toy, view) if self.config.full_captions else random_subject_prompt(draw, view)


def _own_roles(views: int) -> list[_Role]:
    return [((view,), view) for view in range(views)]


class HeldOutToys:
    """Toys that no training saw, each in several scenes.

    Keys are ``toy-003-snow-0``: toy, scene, turn. Facts are those of :func:`subjectgen.toybox.facts.pair_facts` and
    ``held_out_seed``, which fixes with the number who a toy is. Targets are real renders of the wanted picture, for
    metrics that compare with the truth.
    """

    class Config(BaseConfig):
        """Options of ``held_out_toys``."""

        toys: ChangesResults[int] = Field(default=32, ge=1, le=512)
        """Number of identities, in families of four that share colours."""
        scenes: ChangesResults[int] = Field(default=3, ge=1, le=len(SCENES) - 1)
        """Scenes per toy, none of them the reference's; they rotate so that all occur about equally often."""
        seed: ChangesResults[int] = Field(default=0, ge=0)
        """Seed of toys and views."""
        prompts: ChangesResults[Literal["subject", "class", "full"]] = "subject"
        """``subject`` leaves the toy to the reference, ``class`` names its shape, as prompts of big systems name a dog,
        ``full`` describes it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.toys = held_out_toys(config.toys, seed=config.seed)
        draw = Draw(config.seed + 17)
        self.reference_views, self._references = named_references(self.toys, draw)
        self.target_views = [
            [self._target(draw, number, turn) for turn in range(config.scenes)] for number in range(config.toys)
        ]

    def __len__(self) -> int:
        return self.config.toys * self.config.scenes

    def __getitem__(self, index: int) -> Sample:
        """Sample ``toy * scenes + turn``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, turn = divmod(index, self.config.scenes)
        toy, view = self.toys[number], self.target_views[number][turn]
        facts = pair_facts(subject_name(number), number, toy, view, [self.reference_views[number]])
        return Sample(
            key=f"{subject_name(number)}-{view.scene}-{turn}",
            prompt=_prompt(self.config.prompts, toy, view),
            references=(self._references[number],),
            target=render([toy], [view])[0],
            facts={**facts, "held_out_seed": self.config.seed},
        )

    def _target(self, draw: Draw, number: int, turn: int) -> View:
        """A view in the next scene of the rotation, without accessory, never in the reference's scene."""
        scenes = [scene for scene in SCENES if scene != self.reference_views[number].scene]
        return random_view(draw, scene=scenes[(number + turn) % len(scenes)], accessories=False)


def named_references(toys: list[Toy], draw: Draw) -> tuple[list[View], list[Reference]]:
    """One drawn view of each held-out toy, bare, and the reference picture."""
    views = [random_view(draw, accessories=False) for _ in toys]
    pictures, masks = render_with_masks(toys, views)
    references = [
        Reference(image=picture, subject_mask=mask.float(), name=subject_name(number))
        for number, (picture, mask) in enumerate(zip(pictures, masks, strict=True))
    ]
    return views, references


def _prompt(kind: Literal["subject", "class", "full"], toy: Toy, view: View) -> str:
    if kind == "full":
        return caption(toy, view)
    if kind == "class":
        return class_prompt([toy], view, direction=False)
    return subject_prompt(view, direction=False)
