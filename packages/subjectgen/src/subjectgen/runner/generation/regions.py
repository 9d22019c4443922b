"""Regions by phrase: where a draft without references shows what the phrases name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError, Sample
from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Request


def placed(pipeline: SubjectPipeline, request: Request, phrases: Mapping[int, str]) -> Request:
    """The request with references that have regions.

    The draft of a case has the same prompt and seed, so that the subject takes the place of what was there.

    Args:
        pipeline: Its experiment names a finder.
        request: What is asked for.
        phrases: What to look for, by number of the reference.

    Raises:
        InputError: A phrase that a prompt does not name or that is found nowhere, or no finder.
    """
    finder = pipeline.system.finder("regions")
    for case in request.cases:
        for phrase in phrases.values():
            _check_named(phrase, case.sample.prompt)
    bare = tuple(replace(case, sample=replace(case.sample, references=())) for case in request.cases)
    drafts = pipeline.generate(replace(request, cases=bare)).tensors
    words = list(phrases.values())
    cases = [
        replace(case, sample=_with_regions(case.sample, finder.find(draft, words), list(phrases)))
        for case, draft in zip(request.cases, drafts, strict=True)
    ]
    return replace(request, cases=tuple(cases))


def _with_regions(sample: Sample, masks: Float[Tensor, "k h w"], numbers: Sequence[int]) -> Sample:
    references = list(sample.references)
    for number, mask in zip(numbers, masks, strict=True):
        references[number] = replace(references[number], region_mask=mask[None].cpu())
    return replace(sample, references=tuple(references))


def _check_named(phrase: str, prompt: str) -> None:
    """A draft can only show what its prompt asks for: the last word of the phrase, its noun, must be there."""
    words = re.findall(r"\w+", phrase.lower())
    if not words or words[-1] not in re.findall(r"\w+", prompt.lower()):
        raise InputError(
            f"region find:{phrase}: prompt {prompt!r} does not name it; expected a prompt with that subject"
        )
