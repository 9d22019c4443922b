"""Training pairs of detailed toys: half of them share the pose, and every sample says whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, UInt8
from pydantic import Field
from torch import Tensor

from subjectgen.core import ChangesResults, Config as BaseConfig, Reference, Sample
from subjectgen.toybox.captions import random_subject_prompt
from subjectgen.toybox.detailed.facts import pair_facts
from subjectgen.toybox.detailed.renderer import Renderer
from subjectgen.toybox.detailed.world import DetailedToy, ViewPair, random_toy, view_pair
from subjectgen.toybox.world import Draw


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Toys that were rendered at once; pictures in the order reference, target, pair by pair."""

    toys: list[DetailedToy]
    pairs: list[ViewPair]
    prompts: list[str]
    images: UInt8[Tensor, "pictures 3 h w"]
    masks: Bool[Tensor, "pictures 1 h w"]


class DetailedToyPairs:
    """Pairs of pictures of training toys, reference and target in different scenes.

    Every other pair of a toy shares the pose; only so can a model learn to copy a pose, and be seen doing so.
    Keys are ``training-toy-00012-pair-3``; facts those of :func:`subjectgen.toybox.detailed.facts.pair_facts` and
    ``training_seed``.
    """

    class Config(BaseConfig):
        """Options of the pairs."""

        toys: ChangesResults[int] = Field(default=2500, ge=1)
        """Number of identities."""
        pairs: ChangesResults[int] = Field(default=4, ge=2, multiple_of=2)
        """Pairs of each toy; every other one shares the pose."""
        seed: ChangesResults[int] = Field(default=100, ge=0)
        """Seed of toys and views."""
        block: ChangesResults[int] = Field(default=16, ge=1)
        """Toys drawn and rendered at once; another number gives other toys."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._blocks: dict[int, _Block] = {}

    def __len__(self) -> int:
        return self.config.toys * self.config.pairs

    def __getitem__(self, index: int) -> Sample:
        """One pair; the same index gives the same pair."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        toy, number = divmod(index, self.config.pairs)
        block_number, _ = divmod(toy, self.config.block)
        if block_number not in self._blocks:
            self._blocks[block_number] = self._render(block_number)
        block = self._blocks[block_number]
        place = index - block_number * self.config.block * self.config.pairs
        reference, target = block.images[2 * place : 2 * place + 2].float() / 255
        subject, mask = f"training-toy-{toy:05d}", block.masks[2 * place].float()
        return Sample(
            key=f"{subject}-pair-{number}",
            prompt=block.prompts[place],
            references=(Reference(image=reference, subject_mask=mask, name=subject),),
            target=target,
            facts={
                **pair_facts(subject, toy, block.toys[place], block.pairs[place]),
                "training_seed": self.config.seed,
            },
        )

    def __getstate__(self) -> dict[str, Any]:
        """Workers render their own blocks."""
        return {**self.__dict__, "_blocks": {}}

    def _render(self, number: int) -> _Block:
        draw = Draw(self.config.seed * 1_000_003 + number)
        toys: list[DetailedToy] = []
        pairs: list[ViewPair] = []
        for _ in range(min(self.config.block, self.config.toys - number * self.config.block)):
            toy = random_toy(draw)
            toys += [toy] * self.config.pairs
            pairs += [view_pair(draw, toy, shared_pose=turn % 2 == 0) for turn in range(self.config.pairs)]
        prompts = [random_subject_prompt(draw, pair.second) for pair in pairs]
        shown = [toy for toy in toys for _ in range(2)]
        images, masks = Renderer()(shown, [view for pair in pairs for view in (pair.first, pair.second)])
        return _Block(toys=toys, pairs=pairs, prompts=prompts, images=(images * 255).round().byte(), masks=masks)
