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
    SampleError,
    SubjectgenError,
    nearest,
)
from subjectgen.core.files import is_hidden, visible_files
from subjectgen.core.hookspecs import hookimpl
from subjectgen.core.inputs import as_list, as_seeds
from subjectgen.core.roles import Changes, ChangesNothing, ChangesResults, ChangesWeights
from subjectgen.core.text import valid_text

if TYPE_CHECKING:
    from subjectgen.core.images import (
        fit_image as fit_image,
        image_tensor as image_tensor,
        load_reference as load_reference,
        to_pil as to_pil,
    )
    from subjectgen.core.masks import check_mask as check_mask, load_mask as load_mask
    from subjectgen.core.part import Part as Part
    from subjectgen.core.parts import (
        Aggregator as Aggregator,
        Augments as Augments,
        Autoencoder as Autoencoder,
        Backbone as Backbone,
        CachesReferences as CachesReferences,
        Calibrated as Calibrated,
        Checkpoints as Checkpoints,
        Dataset as Dataset,
        Defines as Defines,
        Encoder as Encoder,
        Explains as Explains,
        Finder as Finder,
        HasSizes as HasSizes,
        HasWidth as HasWidth,
        Injector as Injector,
        Isolates as Isolates,
        KeepsArguments as KeepsArguments,
        KnowsWords as KnowsWords,
        ListsKeys as ListsKeys,
        Merges as Merges,
        Metric as Metric,
        PlacesReferences as PlacesReferences,
        Prepares as Prepares,
        ReadsSubjectMasks as ReadsSubjectMasks,
        Schedule as Schedule,
        SetMetric as SetMetric,
        ShowsInputs as ShowsInputs,
        Trainable as Trainable,
    )
    from subjectgen.core.placement import place_references as place_references
    from subjectgen.core.plugins import Plugins as Plugins
    from subjectgen.core.samples import (
        EVERYTHING as EVERYTHING,
        JSON as JSON,
        KEY as KEY,
        NOTHING as NOTHING,
        Reference as Reference,
        Sample as Sample,
        Visibility as Visibility,
    )
    from subjectgen.core.scores import (
        SHARE as SHARE,
        Quantity as Quantity,
        Row as Row,
    )
    from subjectgen.core.streams import (
        ActiveBranches as ActiveBranches,
        AttentionAddition as AttentionAddition,
        AttentionLayout as AttentionLayout,
        AttentionSite as AttentionSite,
        Conditioning as Conditioning,
        Encoded as Encoded,
        Features as Features,
        Guidance as Guidance,
        Latents as Latents,
        Modality as Modality,
        Placement as Placement,
        StepConditions as StepConditions,
        Streams as Streams,
        TokenGroup as TokenGroup,
    )
    from subjectgen.core.weights import resolve_checkpoint as resolve_checkpoint

_LAZY = {
    "resolve_checkpoint": "subjectgen.core.weights",
    "check_mask": "subjectgen.core.masks",
    "load_mask": "subjectgen.core.masks",
    "image_tensor": "subjectgen.core.images",
    "load_reference": "subjectgen.core.images",
    "fit_image": "subjectgen.core.images",
    "to_pil": "subjectgen.core.images",
    "place_references": "subjectgen.core.placement",
    "Part": "subjectgen.core.part",
    "Plugins": "subjectgen.core.plugins",
    **dict.fromkeys(
        [
            "Aggregator",
            "Augments",
            "Autoencoder",
            "Backbone",
            "CachesReferences",
            "Calibrated",
            "Checkpoints",
            "Dataset",
            "Defines",
            "Encoder",
            "Explains",
            "Finder",
            "HasSizes",
            "HasWidth",
            "Injector",
            "Isolates",
            "KnowsWords",
            "KeepsArguments",
            "ListsKeys",
            "Merges",
            "Metric",
            "PlacesReferences",
            "Prepares",
            "ReadsSubjectMasks",
            "Schedule",
            "SetMetric",
            "ShowsInputs",
            "Trainable",
        ],
        "subjectgen.core.parts",
    ),
    **dict.fromkeys(
        ["EVERYTHING", "JSON", "KEY", "NOTHING", "Reference", "Sample", "Visibility"],
        "subjectgen.core.samples",
    ),
    **dict.fromkeys(
        ["Quantity", "Row", "SHARE"],
        "subjectgen.core.scores",
    ),
    **dict.fromkeys(
        [
            "ActiveBranches",
            "AttentionAddition",
            "AttentionLayout",
            "AttentionSite",
            "Conditioning",
            "Encoded",
            "Features",
            "Guidance",
            "Latents",
            "Modality",
            "Placement",
            "StepConditions",
            "Streams",
            "TokenGroup",
        ],
        "subjectgen.core.streams",
    ),
}

__all__ = [
    "KINDS",
    "Changes",
    "ChangesNothing",
    "ChangesResults",
    "ChangesWeights",
    "CheckpointError",
    "Component",
    "ComponentError",
    "Config",
    "ConfigError",
    "InputError",
    "SampleError",
    "SubjectgenError",
    "as_list",
    "as_seeds",
    "hookimpl",
    "is_hidden",
    "nearest",
    "valid_text",
    "visible_files",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
