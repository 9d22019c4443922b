"""What this distribution offers. Imported at discovery: nothing heavy here."""

from __future__ import annotations

from collections.abc import Iterable

from subjectgen.core import Component, hookimpl


@hookimpl
def subjectgen_backbones() -> Iterable[Component]:
    """Velocity models."""
    return (
        Component(
            name="flux",
            target="subjectgen.backbones.flux:FluxBackbone",
            config="subjectgen.backbones.options:FluxConfig",
            sizes="package:subjectgen.backbones/sizes",
            summary="diffusers' FLUX transformer at any size, with optional LoRA",
        ),
    )


@hookimpl
def subjectgen_injectors() -> Iterable[Component]:
    """How a conditioning enters the backbone."""
    return (
        Component(
            name="context",
            target="subjectgen.backbones.context:ContextInjector",
            summary="conditioning tokens on the backbone's text stream",
        ),
        Component(
            name="reference_tokens",
            target="subjectgen.backbones.reference_tokens:ReferenceTokensInjector",
            summary="reference latents as image tokens after the target, at their own positions",
        ),
    )
