"""What each branch does for one row in one pass, and from it the one decision which rows go together.

A branch is absent for a row when it may see nothing, or when the row has nothing it could see. Absent is the same
everywhere: in a stage, in dropout, in the negative pass. Rows share a batch if the same happens to them in every step;
so an image does not depend on the batch it is in.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from subjectgen.core import EVERYTHING, NOTHING, ActiveBranches, Guidance, Latents, Sample, Schedule, Visibility
from subjectgen.runner.system.branch import Branch


@dataclass(frozen=True, slots=True)
class BranchPass:
    """One branch in one pass."""

    branch: str
    seen: Visibility
    """What it sees of what it reads and the row has."""
    zeroed: bool
    """Whether its tokens are multiplied by 0 (``inactive: zero``)."""


Pass: TypeAlias = tuple[BranchPass, ...]
"""The branches in the sequence; equal passes give equal velocities."""


@dataclass(frozen=True, slots=True)
class StepPasses:
    """What the backbone is run for in one step."""

    positive: Pass
    negative: Pass | None
    """``None`` where it would give the same velocity, or guidance is off."""
    embedded: float | None
    scale: float


def row_pass(branches: Mapping[str, Branch], sample: Sample, active: ActiveBranches) -> Pass:
    """The pass that a mask leads to for one row."""
    found = []
    for name, branch in branches.items():
        allowed = active.visibility[name]
        zeroed = active.inactive == "zero" and branch.reads_none_of(allowed)
        seen = branch.readable(sample, EVERYTHING if zeroed else allowed)
        if not seen.nothing:
            found.append(BranchPass(name, seen, zeroed))
    return tuple(found)


def step_passes(
    branches: Mapping[str, Branch], sample: Sample, active: ActiveBranches, guidance: Guidance
) -> StepPasses:
    """Positive and negative pass of one row in one step of sampling.

    Where no branch of the stage has anything to read in this row, those that have speak instead: a step on no tokens at
    all would be an image of nothing.
    """
    positive = row_pass(branches, sample, active)
    if not positive:
        active = ActiveBranches(visibility=dict.fromkeys(branches, EVERYTHING), inactive=active.inactive)
        positive = row_pass(branches, sample, active)
    if guidance.true_cfg == 1.0:
        return StepPasses(positive, None, guidance.embedded, 1.0)
    hidden = active.restricted({name: guidance.negative.get(name, NOTHING) for name in branches})
    negative = row_pass(branches, sample, hidden)
    same = negative == positive
    return StepPasses(positive, None if same else negative, guidance.embedded, guidance.true_cfg)


def warn_of_silent_stages(
    branches: Mapping[str, Branch], samples: Sequence[Sample], schedule: Schedule, times: Sequence[float]
) -> None:
    """Say once if the branches of a stage have nothing to read in some sample."""
    for stage, t in {schedule.stage(t): t for t in reversed(times)}.items():
        active = schedule.active(t)
        for sample in samples:
            if not row_pass(branches, sample, active):
                lacks = "references" if not sample.references else "prompt"
                warnings.warn(
                    f"stage {stage}: {', '.join(sorted(active.names))} have nothing to read without {lacks}; the other "
                    "branches speak in this stage instead",
                    stacklevel=2,
                )
                break


def shapes(branches: Mapping[str, Branch], sample: Sample, passes: Pass) -> Hashable:
    """Sizes of references, where a branch of the pass makes latents of them: those cannot be padded."""
    latent = any(branches[one.branch].injector.accepts is Latents for one in passes)
    return tuple(tuple(reference.image.shape) for reference in sample.references) if latent else None


def grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """Rows with equal keys together, in order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return list(groups.values())
