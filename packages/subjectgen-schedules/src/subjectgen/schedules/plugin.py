"""What this distribution offers. Imported at discovery: nothing heavy here."""

from __future__ import annotations

from collections.abc import Iterable

from subjectgen.core import Component, hookimpl


@hookimpl
def subjectgen_schedules() -> Iterable[Component]:
    """Timestep grid, stage masks, guidance and branch dropout."""
    return (
        Component(
            name="three_stage",
            target="subjectgen.schedules.three_stage:ThreeStage",
            summary="first branch early, all in the middle, the others late (Squeeze-MLLM)",
        ),
        Component(
            name="always_on",
            target="subjectgen.schedules.always_on:AlwaysOn",
            summary="every branch at every timestep",
        ),
    )
