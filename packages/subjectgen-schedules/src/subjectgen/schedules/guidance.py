"""Classifier-free guidance: the backbone's own guidance input, and two passes, for all stages or per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from pydantic import Field

from subjectgen.core import ChangesResults, Config, Guidance, Visibility
from subjectgen.schedules.names import check_names

Input: TypeAlias = Literal["text", "references"]
Word: TypeAlias = Literal["same", "no_references", "empty"]
Negative: TypeAlias = Word | dict[str, tuple[Input, ...]]
SEEN: Mapping[Word, tuple[Input, ...]] = {"same": ("references",), "no_references": ("text",), "empty": ()}
"""What every branch sees in the negative pass, by word."""


class GuidanceSettings(Config):
    """Guidance of one stage, or of all."""

    embedded: ChangesResults[float | None] = Field(default=None, ge=0)
    """Value of the backbone's own guidance input (FLUX.1-dev has one); null where it has none."""
    true_cfg: ChangesResults[float] = Field(default=1.0, ge=0)
    """Scale of classifier-free guidance in two passes; 1 means one pass."""
    negative: ChangesResults[Negative] = "empty"
    """What the negative pass sees. ``empty``: nothing. ``no_references``: the text alone. ``same``: the same
    references, no text; branches that read no text then say the same in both passes, and a stage of such branches alone
    needs one pass. Or per branch the inputs it sees, such as ``{mllm: [text]}``, where a branch that is not named sees
    nothing."""


class GuidanceConfig(GuidanceSettings):
    """Guidance of all stages, with exceptions."""

    stages: ChangesResults[dict[str, GuidanceSettings]] = Field(default_factory=dict)
    """Settings that differ in one stage, by its name; what is not written there is as above."""


def resolve_guidance(config: GuidanceConfig, *, stages: Sequence[str], branches: Sequence[str]) -> dict[str, Guidance]:
    """The guidance of each stage.

    Raises:
        ConfigError: an unknown stage or branch.
    """
    check_names("guidance.stages", config.stages, stages, what="stage")
    resolved = {}
    for stage in stages:
        settings = _overridden(config, config.stages.get(stage))
        negative = _negative(settings.negative, branches, key="guidance.negative")
        resolved[stage] = Guidance(embedded=settings.embedded, true_cfg=settings.true_cfg, negative=negative)
    return resolved


def _overridden(config: GuidanceConfig, exception: GuidanceSettings | None) -> GuidanceSettings:
    if exception is None:
        return config
    return config.model_copy(update={key: getattr(exception, key) for key in exception.model_fields_set})


def _negative(negative: Negative, branches: Sequence[str], *, key: str) -> Mapping[str, Visibility]:
    if isinstance(negative, dict):
        check_names(key, negative, branches)
        return {name: sees(negative.get(name, ())) for name in branches}
    return dict.fromkeys(branches, sees(SEEN[negative]))


def sees(inputs: Sequence[Input]) -> Visibility:
    """The visibility that has exactly these inputs."""
    return Visibility(text="text" in inputs, references="references" in inputs)
