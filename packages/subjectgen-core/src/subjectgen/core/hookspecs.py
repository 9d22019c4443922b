"""Every extension point of subjectgen, on one screen. See docs/reference/hooks.md.

A plugin is a module that an entry point of group ``subjectgen`` names, with functions marked ``@hookimpl``.
Each returns descriptions (:class:`~subjectgen.core.component.Component`); targets are imported on use.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from subjectgen.core.component import Component

PROJECT = "subjectgen"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def subjectgen_encoders() -> Iterable[Component]:  # type: ignore[empty-body]
    """Prompt and references -> hidden states, latents or conditioning tokens."""


@hookspec
def subjectgen_autoencoders() -> Iterable[Component]:  # type: ignore[empty-body]
    """Images <-> latents."""


@hookspec
def subjectgen_aggregators() -> Iterable[Component]:  # type: ignore[empty-body]
    """Hidden states of all layers -> conditioning tokens."""


@hookspec
def subjectgen_injectors() -> Iterable[Component]:  # type: ignore[empty-body]
    """How a conditioning enters the backbone."""


@hookspec
def subjectgen_backbones() -> Iterable[Component]:  # type: ignore[empty-body]
    """Velocity models."""


@hookspec
def subjectgen_schedules() -> Iterable[Component]:  # type: ignore[empty-body]
    """Timestep grid, stage masks, guidance and branch dropout."""


@hookspec
def subjectgen_datasets() -> Iterable[Component]:  # type: ignore[empty-body]
    """Sources of samples."""


@hookspec
def subjectgen_metrics() -> Iterable[Component]:  # type: ignore[empty-body]
    """Numbers for each generated image, or for a whole set."""


@hookspec
def subjectgen_finders() -> Iterable[Component]:  # type: ignore[empty-body]
    """Phrases -> where they are in a picture."""
