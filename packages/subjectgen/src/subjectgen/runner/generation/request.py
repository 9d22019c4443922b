"""What is asked for: samples with seeds and sizes, made once at the edge and handed down as one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from subjectgen.core import InputError, Sample
from subjectgen.runner.system.system import System


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One image to make."""

    sample: Sample
    seed: int
    size: tuple[int, int] | None = None
    """Height and width in pixels; ``None``: the experiment's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """Images to make, and how."""

    cases: tuple[Case, ...]
    steps: int | None = None
    """Denoising steps; ``None``: the schedule's."""
    batch_size: int = 32
    """Images per pass of the backbone."""

    def __post_init__(self) -> None:
        """Refuse what cannot be made.

        Raises:
            InputError: No case, a seed, step count or batch size out of range.
        """
        if not self.cases:
            raise InputError("request: got no case; expected at least one prompt and one seed")
        for case in self.cases:
            if not 0 <= case.seed < 2**63:
                raise InputError(f"seed: got {case.seed}; expected a whole number in 0..2**63 - 1")
        if self.batch_size < 1:
            raise InputError(f"batch_size: got {self.batch_size}; expected at least 1")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps: got {self.steps}; expected at least 1")

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        seeds: Sequence[int],
        *,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        batch_size: int = 32,
    ) -> Request:
        """One case per sample and its seed, all of one size."""
        cases = tuple(Case(sample=s, seed=seed, size=size) for s, seed in zip(samples, seeds, strict=True))
        return cls(cases=cases, steps=steps, batch_size=batch_size)


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse an empty list and blank prompts.

    Raises:
        InputError: Shows what was given.
    """
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise InputError(f"prompt: got {list(prompts)}; expected at least one, and none of them blank")


def check_read(system: System, samples: Sequence[Sample]) -> None:
    """Whether somebody reads every input of a request.

    Raises:
        InputError: References or subject masks that no part of the experiment reads.
    """
    encoders = [branch.encoder for branch in system.branches.values()]
    if any(sample.references for sample in samples) and not any("references" in one.inputs for one in encoders):
        raise InputError("references: no encoder of this experiment reads any; expected a request without them")
    masks = any(reference.subject_mask is not None for sample in samples for reference in sample.references)
    if masks and not any(getattr(one, "reads_subject_masks", False) for one in encoders):
        raise InputError("subject masks: no encoder of this experiment reads any; expected references without them")
