"""What each branch says about each row: encoded once, joined into the backbone's streams as the schedule asks.

A branch is absent for a row when it may see nothing, or when the row has nothing it could see. Absent is the same
everywhere: in a stage, in dropout, in the negative pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from subjectgen.core import (
    EVERYTHING,
    ActiveBranches,
    ComponentError,
    Conditioning,
    Features,
    InputError,
    Latents,
    Placement,
    Sample,
    Streams,
    Visibility,
    place_references,
)
from subjectgen.runner.assemble import Branch, System

Said = Conditioning | Latents


def sees_something(branch: Branch, sample: Sample) -> bool:
    """Whether the sample holds anything that the branch's encoder reads."""
    inputs = branch.encoder.inputs
    return bool("text" in inputs and sample.prompt) or bool("references" in inputs and sample.references)


def present(system: System, sample: Sample, active: ActiveBranches) -> tuple[str, ...]:
    """Branches in the sequence for this row."""
    return tuple(
        name
        for name, branch in system.branches.items()
        if sees_something(branch, sample.seen(_effective(active, branch)))
    )


def silent(active: ActiveBranches, branch: Branch) -> bool:
    """Whether the branch may see none of the inputs that its encoder reads."""
    seen, inputs = active.visibility[branch.name], branch.encoder.inputs
    return not ((seen.text and "text" in inputs) or (seen.references and "references" in inputs))


def _effective(active: ActiveBranches, branch: Branch) -> Visibility:
    """With ``inactive: zero`` a silent branch is still computed."""
    zeroed = active.inactive == "zero" and silent(active, branch)
    return EVERYTHING if zeroed else active.visibility[branch.name]


def encode(branch: Branch, samples: Sequence[Sample]) -> Said:
    """Run one branch up to its conditioning.

    Raises:
        ComponentError: The encoder gives hidden states and the branch has no aggregator, or the reverse.
    """
    layers = getattr(branch.aggregator, "layers", None)
    with torch.autocast(_device_type(branch.encoder), enabled=False):  # the encoder's own dtype decides, everywhere
        encoded = branch.encoder.encode(samples, layers=layers)
    if isinstance(encoded, Features):
        if branch.aggregator is None:
            raise ComponentError(f"branch {branch.name}: the encoder gives hidden states; an aggregator is needed")
        return branch.aggregator(encoded)
    if branch.aggregator is not None:
        raise ComponentError(f"branch {branch.name}: the encoder gives no hidden states; remove the aggregator")
    return encoded


def _device_type(encoder: Any) -> str:
    return next((p.device.type for p in encoder.parameters()), "cpu")


@dataclass(frozen=True, slots=True)
class Speech:
    """What one branch does in one pass: what it sees of what it reads, and whether its tokens are multiplied by 0."""

    branch: str
    seen: Visibility
    silent: bool


Pass: TypeAlias = tuple[Speech, ...]
"""The branches in the sequence; equal passes give equal velocities."""


class Conditioner:
    """Conditionings of a fixed list of samples, each computed at most once per branch and visibility."""

    def __init__(
        self,
        system: System,
        samples: Sequence[Sample],
        *,
        target_grid: tuple[int, int],
        instead: Mapping[str, Sequence[Sample]] | None = None,
    ) -> None:
        """``instead``: other samples for one branch, to see what that branch alone changes."""
        self._system, self._grid = system, target_grid
        self._samples = {name: list((instead or {}).get(name, samples)) for name in system.branches}
        self._said: dict[tuple[str, Visibility], Said] = {}
        self._placement = placement(system, samples, target_grid)
        self._count = len(samples)
        self.encoded = 0
        """How many times a branch was run; grows with (branch, visibility), not with steps or seeds."""

    def passed(self, active: ActiveBranches) -> Pass:
        """The pass that this mask leads to: inputs that a branch does not read, or that no sample has, count not."""
        speeches = []
        for name, branch in self._system.branches.items():
            samples = self._samples[name]
            seen = _readable(_effective(active, branch), branch, samples)
            if any(sees_something(branch, sample.seen(seen)) for sample in samples):
                speeches.append(Speech(name, seen, silent(active, branch)))
        return tuple(speeches)

    def streams(self, active: ActiveBranches, index: Tensor | None = None) -> Streams:
        """Streams of all samples, or of the rows ``index`` of them (a sample may occur many times).

        All samples must have the same branches present; :func:`group_rows` makes such groups.
        """
        return self.joined([self.passed(active)], index)

    def joined(self, passes: Sequence[Pass], index: Tensor | None = None) -> Streams:
        """Streams of several passes in one batch, the rows of one pass after those of another (see :meth:`joinable`).

        Encodes and aggregates what was not before.
        """
        place = self._placement
        rows_of = torch.arange(self._count) if index is None else index
        if place is not None and (index is not None or len(passes) > 1):
            place = place.rows(rows_of.repeat(len(passes)).to(place.weights.device))
        streams = Streams(target_grid=self._grid, placement=place)
        for speeches in zip(*passes, strict=True):
            said = [self._say(speech) for speech in speeches]
            chosen = said if index is None else [rows(one, index) for one in said]
            streams = self._system.branches[speeches[0].branch].injector(streams, stacked(chosen))
        return streams

    def joinable(self, passes: Sequence[Pass]) -> bool:
        """Whether the passes have the same branches present, with equally many tokens: one batch then serves all."""
        names = {tuple(speech.branch for speech in one) for one in passes}
        if len(names) > 1:
            return False
        return all(
            len({shape_of(self._say(speech)) for speech in speeches}) == 1 for speeches in zip(*passes, strict=True)
        )

    def _say(self, speech: Speech) -> Said:
        branch, key = self._system.branches[speech.branch], (speech.branch, speech.seen)
        if key not in self._said:
            self.encoded += 1
            self._said[key] = encode(branch, [sample.seen(speech.seen) for sample in self._samples[branch.name]])
        said = self._said[key]
        return scaled(said, torch.zeros(self._count)) if speech.silent else said


def _readable(seen: Visibility, branch: Branch, samples: Sequence[Sample]) -> Visibility:
    """What is left of a visibility when inputs are taken away that the branch does not read or no sample has."""
    inputs = branch.encoder.inputs
    return Visibility(
        text=seen.text and "text" in inputs and any(sample.prompt for sample in samples),
        references=seen.references and "references" in inputs and any(sample.references for sample in samples),
    )


def training_streams(
    system: System, samples: Sequence[Sample], active: Sequence[ActiveBranches], *, target_grid: tuple[int, int]
) -> Streams:
    """Streams of one group of training rows, each with its own visibility; gradients reach the aggregators."""
    streams = Streams(target_grid=target_grid, placement=placement(system, samples, target_grid))
    for branch in system.branches.values():
        seen = [s.seen(_effective(a, branch)) for s, a in zip(samples, active, strict=True)]
        if not any(sees_something(branch, sample) for sample in seen):
            continue
        said = encode(branch, seen)
        speaks = torch.tensor([0.0 if silent(a, branch) else 1.0 for a in active])
        streams = branch.injector(streams, said if bool(speaks.all()) else scaled(said, speaks))
    return streams


def placement(system: System, samples: Sequence[Sample], target_grid: tuple[int, int]) -> Placement | None:
    """Regions and weights of the samples' references on the system's device.

    Raises:
        InputError: A bad mask or weight, or any at all where no injector heeds them.
    """
    place = place_references(samples, target_grid)
    if place is None:
        return None
    if not any(getattr(branch.injector, "places_references", False) for branch in system.branches.values()):
        raise InputError(
            "a reference has a region mask or a weight, but no injector of this experiment heeds them; expected one "
            "that treats each reference by itself (list: subjectgen components --kind injectors)"
        )
    for name, branch in system.branches.items():
        if "references" in branch.encoder.inputs and not getattr(branch.injector, "places_references", False):
            warnings.warn(f"branch {name} reads references, but heeds neither their regions nor weights", stacklevel=2)
    return Placement(regions=place.regions.to(system.device), weights=place.weights.to(system.device))


def group_rows(system: System, samples: Sequence[Sample], active: Sequence[ActiveBranches]) -> list[list[int]]:
    """Split a batch into rows with the same branches present and the same references, so that no token is wasted."""
    groups: dict[object, list[int]] = {}
    for number, (sample, mask) in enumerate(zip(samples, active, strict=True)):
        names = present(system, sample, mask)
        shapes = tuple(tuple(reference.image.shape) for reference in sample.references)
        latent = any(system.branches[name].injector.accepts is Latents for name in names)
        groups.setdefault((names, shapes if latent else None), []).append(number)
    return list(groups.values())


def rows(said: Said, index: Tensor) -> Said:
    """Chosen rows of a conditioning."""
    if isinstance(said, Latents):
        return Latents(values=tuple(value[index.to(value.device)] for value in said.values))
    index = index.to(said.tokens.device)
    pooled = None if said.pooled is None else said.pooled[index]
    reference = None if said.reference is None else said.reference[index]
    return Conditioning(tokens=said.tokens[index], mask=said.mask[index], pooled=pooled, reference=reference)


def stacked(parts: Sequence[Said]) -> Said:
    """Conditionings of equal shapes as one, the rows of one after those of another."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Latents):
        columns = zip(*(part.values for part in parts if isinstance(part, Latents)), strict=True)
        return Latents(values=tuple(torch.cat(column) for column in columns))
    given = [part for part in parts if isinstance(part, Conditioning)]
    pooled = [part.pooled for part in given if part.pooled is not None]
    reference = [part.reference for part in given if part.reference is not None]
    return Conditioning(
        tokens=torch.cat([part.tokens for part in given]),
        mask=torch.cat([part.mask for part in given]),
        pooled=torch.cat(pooled) if pooled else None,
        reference=torch.cat(reference) if reference else None,
    )


def shape_of(said: Said) -> object:
    """What must be equal for :func:`stacked`."""
    if isinstance(said, Latents):
        return tuple(value.shape for value in said.values)
    return said.tokens.shape, said.pooled is None, said.reference is None


def scaled(said: Said, by: Tensor) -> Said:
    """Multiply each row by a number; 0 is the letter of Eq. 4."""
    if isinstance(said, Latents):
        return Latents(values=tuple(value * by.to(value)[:, None, None, None] for value in said.values))
    factor = by.to(said.tokens)
    pooled = None if said.pooled is None else said.pooled * factor[:, None]
    return replace(said, tokens=said.tokens * factor[:, None, None], pooled=pooled)


def silence(visibility: Mapping[str, Visibility], names: Sequence[str]) -> dict[str, Visibility]:
    """Complete a negative pass: branches that it does not name see nothing."""
    return {name: visibility.get(name, Visibility(text=False, references=False)) for name in names}
