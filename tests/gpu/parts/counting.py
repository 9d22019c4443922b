"""Operations of what is run, by the formulas of ``subjectgen plan``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from subjectgen.core import Streams
from subjectgen.runner.planning.formulas import MAP, Tokens, flux_modulation, flux_work
from subjectgen.runner.sampling import Plan


def tokens_of(streams: Streams) -> Tokens:
    """Tokens of one pass."""
    return Tokens(
        context=sum(group.tokens.shape[1] for group in streams.context),
        target=math.prod(streams.target_grid),
        references=sum(group.tokens.shape[1] for group in streams.image),
    )


def shown(tokens: Tokens) -> str:
    """Context / target / references, as in tables."""
    cached = f"({tokens.cached} cached)" if tokens.cached else f"{tokens.references}"
    return f"{tokens.context}/{tokens.target}/{cached}"


def pass_flops(sizes: Mapping[str, Any], tokens: Tokens) -> int:
    """One forward pass of one image whose modulation is looked up, not computed."""
    return flux_work(sizes, tokens).total - MAP * flux_modulation(sizes)


def image_flops(sizes: Mapping[str, Any], plan: Plan, *, cached: bool) -> int:
    """All passes of a sampling; with ``cached``, the references once and then their keys and values only."""
    total, references = 0, 0
    for work in plan.work:
        for streams in work.streams:
            tokens = tokens_of(streams)
            references = max(references, tokens.references)
            total += (2 if work.joined else 1) * pass_flops(sizes, tokens.with_cache() if cached else tokens)
    if cached:
        total += pass_flops(sizes, Tokens(context=0, target=0, references=references))
    return total
