"""What each branch makes of each row: encoded once, joined into the backbone's streams as the passes ask."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from subjectgen.core import EVERYTHING, InputError, Placement, Sample, Streams, Visibility, place_references
from subjectgen.runner.generation.conditions import rows, scaled, shape_of, stacked
from subjectgen.runner.generation.passes import BranchPass, Pass
from subjectgen.runner.system.branch import Conditions
from subjectgen.runner.system.system import System


class Conditioner:
    """Conditions of samples to which the same happens in every step, each computed at most once per branch and
    visibility.
    """

    def __init__(
        self,
        system: System,
        samples: Sequence[Sample],
        *,
        target_grid: tuple[int, int],
        instead: Mapping[str, Sequence[Sample]] | None = None,
    ) -> None:
        """``instead``: other samples for one branch, to see what that branch alone changes."""
        self._branches, self._grid = system.branches, target_grid
        self._samples = {name: list((instead or {}).get(name, samples)) for name in system.branches}
        self._made: dict[tuple[str, Visibility], Conditions] = {}
        self._placement = placement(system, samples, target_grid)
        self._count = len(samples)
        self._explained: dict[str, Sequence[Mapping[str, Any]]] = {}

    def streams(self, passes: Sequence[Pass], index: Int[Tensor, " n"] | None = None) -> Streams:
        """Streams of several passes in one batch, the rows of one pass after those of another (see :meth:`joinable`).

        ``index``: which sample each row of a pass is of, for samples that occur many times; ``None``: one row each.
        """
        placed = self._placement
        rows_of = torch.arange(self._count) if index is None else index
        if placed is not None and (index is not None or len(passes) > 1):
            placed = placed.rows(rows_of.repeat(len(passes)).to(placed.weights.device))
        streams = Streams(target_grid=self._grid, placement=placed)
        for together in zip(*passes, strict=True):
            made = [self._conditions(one) for one in together]
            chosen = made if index is None else [rows(one, index) for one in made]
            streams = self._branches[together[0].branch].injector(streams, stacked(chosen))
        return streams

    def joinable(self, passes: Sequence[Pass]) -> bool:
        """Whether the passes have the same branches present, with equally many tokens: one batch then serves all."""
        names = {tuple(one.branch for one in found) for found in passes}
        if len(names) > 1:
            return False
        return all(
            len({shape_of(self._conditions(one)) for one in together}) == 1 for together in zip(*passes, strict=True)
        )

    def explanations(self) -> list[dict[str, Any]]:
        """For each sample, by branch: what aggregators said of it that explain themselves, where they saw all of it."""
        return [{name: said[row] for name, said in self._explained.items()} for row in range(self._count)]

    def _conditions(self, one: BranchPass) -> Conditions:
        branch, key = self._branches[one.branch], (one.branch, one.seen)
        if key not in self._made:
            samples = self._samples[one.branch]
            everything = all(branch.readable(sample, EVERYTHING) == one.seen for sample in samples)
            encoding = branch.encode([sample.seen(one.seen) for sample in samples], explain=everything)
            self._made[key] = encoding.conditions
            if encoding.explanations is not None:
                self._explained[one.branch] = encoding.explanations
        made = self._made[key]
        return scaled(made, torch.zeros(self._count)) if one.zeroed else made


def placement(system: System, samples: Sequence[Sample], target_grid: tuple[int, int]) -> Placement | None:
    """Regions and weights of the samples' references on the system's device.

    Raises:
        InputError: A bad mask or weight, or any at all where no injector heeds them.
    """
    placed = place_references(samples, target_grid)
    if placed is None:
        return None
    heed = {name for name, b in system.branches.items() if getattr(b.injector, "places_references", False)}
    if not heed:
        raise InputError(
            "a reference has a region mask or a weight, but no injector of this experiment heeds them; expected one "
            "that treats each reference by itself (list: subjectgen components --kind injectors)"
        )
    for name, branch in system.branches.items():
        if "references" in branch.encoder.inputs and name not in heed:
            warnings.warn(f"branch {name} reads references, but heeds neither their regions nor weights", stacklevel=2)
    return Placement(regions=placed.regions.to(system.device), weights=placed.weights.to(system.device))
