"""Operations of what is run, by the formulas of ``subjectgen plan``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from subjectgen.core import Streams
from subjectgen.runner.generation.denoising import Denoising, StageInputs
from subjectgen.runner.planning.formulas import MAP, Tokens, flux_modulation, flux_work


def tokens_of(streams: Streams) -> Tokens:
    """Tokens of one pass."""
    return Tokens(
        context=sum(group.tokens.shape[1] for group in streams.context),
        target=math.prod(streams.target_grid),
        references=sum(group.tokens.shape[1] for group in streams.references),
    )


def shown(tokens: Tokens) -> str:
    """Context / target / references, as in tables."""
    cached = f"({tokens.cached} cached)" if tokens.cached else f"{tokens.references}"
    return f"{tokens.context}/{tokens.target}/{cached}"


def pass_flops(sizes: Mapping[str, Any], tokens: Tokens) -> int:
    """One forward pass of one image whose modulation is looked up, not computed."""
    return flux_work(sizes, tokens).total - MAP * flux_modulation(sizes)


def steps_of(denoising: Denoising) -> list[StageInputs]:
    """What each step feeds the backbone."""
    return [denoising.inputs[denoising.passes(t)] for t in denoising.times[:-1]]


def stages_of(denoising: Denoising) -> list[str]:
    """The stage of each step."""
    return [denoising.system.schedule.stage(t) for t in denoising.times[:-1]]


def image_flops(sizes: Mapping[str, Any], denoising: Denoising, *, cached: bool) -> int:
    """All passes of a sampling; with ``cached``, the references once and then their keys and values only."""
    total, references = 0, 0
    for step in steps_of(denoising):
        for streams in step.streams:
            tokens = tokens_of(streams)
            references = max(references, tokens.references)
            total += (2 if step.joined else 1) * pass_flops(sizes, tokens.with_cache() if cached else tokens)
    if cached:
        total += pass_flops(sizes, Tokens(context=0, target=0, references=references))
    return total
