"""Contracts, plugin host and configuration: all that a part or a plugin needs to import.

Light names are imported at once; names that need torch are imported when first used, so that
``import subjectgen.core`` (and the command line) never pays for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from subjectgen.core.component import KINDS, Component, Config
from subjectgen.core.errors import (
    CheckpointError,
    ComponentError,
    ConfigError,
    InputError,
    SubjectgenError,
    nearest,
)
from subjectgen.core.hookspecs import hookimpl

if TYPE_CHECKING:
    from subjectgen.core.contracts import (
        EVERYTHING as EVERYTHING,
        NOTHING as NOTHING,
        ActiveBranches as ActiveBranches,
        Aggregator as Aggregator,
        AttentionAddition as AttentionAddition,
        AttentionLayout as AttentionLayout,
        AttentionSite as AttentionSite,
        Backbone as Backbone,
        Conditioning as Conditioning,
        Dataset as Dataset,
        Encoded as Encoded,
        Encoder as Encoder,
        Features as Features,
        Finder as Finder,
        Guidance as Guidance,
        Injector as Injector,
        Latents as Latents,
        Metric as Metric,
        Modality as Modality,
        Placement as Placement,
        Reference as Reference,
        Sample as Sample,
        Schedule as Schedule,
        StepConditions as StepConditions,
        Streams as Streams,
        TokenGroup as TokenGroup,
        Visibility as Visibility,
    )
    from subjectgen.core.images import (
        fit_image as fit_image,
        load_mask as load_mask,
        load_reference as load_reference,
        to_pil as to_pil,
    )
    from subjectgen.core.placement import place_references as place_references
    from subjectgen.core.plugins import Plugins as Plugins
    from subjectgen.core.weights import resolve_checkpoint as resolve_checkpoint

_LAZY = {
    "resolve_checkpoint": "subjectgen.core.weights",
    "load_mask": "subjectgen.core.images",
    "load_reference": "subjectgen.core.images",
    "fit_image": "subjectgen.core.images",
    "to_pil": "subjectgen.core.images",
    "place_references": "subjectgen.core.placement",
    "Plugins": "subjectgen.core.plugins",
    **dict.fromkeys(
        [
            *("EVERYTHING", "NOTHING", "ActiveBranches", "Aggregator", "Backbone", "Conditioning", "Dataset"),
            *("AttentionAddition", "AttentionLayout", "AttentionSite", "Encoded", "Encoder", "Features", "Finder"),
            *("Guidance", "Injector", "Latents", "Metric", "Modality", "Placement"),
            *("Reference", "Sample", "Schedule", "StepConditions", "Streams", "TokenGroup", "Visibility"),
        ],
        "subjectgen.core.contracts",
    ),
}

__all__ = [
    "KINDS",
    "CheckpointError",
    "Component",
    "ComponentError",
    "Config",
    "ConfigError",
    "InputError",
    "SubjectgenError",
    "hookimpl",
    "nearest",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
