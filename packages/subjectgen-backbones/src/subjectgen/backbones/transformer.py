"""FLUX transformers: their size, and their weights from a checkpoint, all of them or an error."""

from __future__ import annotations

import torch
from pydantic import ValidationError
from torch import nn

from subjectgen.backbones.options import FluxArchitecture
from subjectgen.backbones.single_file import load_single_file
from subjectgen.backbones.site_transformer import FluxTransformer2DModel
from subjectgen.core import CheckpointError
from subjectgen.core.errors import one_line
from subjectgen.core.weights import Checkpoint, load_diffusers


def load_transformer(
    source: str, *, dtype: torch.dtype, subfolder: str | None = None, revision: str | None = None
) -> FluxTransformer2DModel:
    """Load from a local folder or a hub id in diffusers' format, or from one file in FLUX's own; safetensors only.

    Raises:
        CheckpointError: nothing there, unreadable, another architecture, or tensors that are missing, unexpected or of
            another shape.
    """
    checkpoint = Checkpoint(name=source, subfolder=subfolder or "", revision=revision)
    if checkpoint.path is not None and checkpoint.path.is_file():
        return load_single_file(checkpoint.path, dtype=dtype)
    sizes = checkpoint.config("_class_name", [FluxTransformer2DModel.__name__])
    try:
        FluxArchitecture.model_validate({key: sizes[key] for key in FluxArchitecture.model_fields if key in sizes})
    except ValidationError as error:
        first = error.errors()[0]
        given = f"{first['loc'][0]}: got {first['input']!r}: " if first["loc"] else ""
        raise CheckpointError(f"{checkpoint}: config.json: {given}{first['msg']}") from error
    return load_diffusers(FluxTransformer2DModel, checkpoint, dtype=dtype)


def copy_weights(source: nn.Module, target: nn.Module, place: str) -> None:
    """Copy all weights of one transformer into another of the same shape."""
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{place}: does not fit the backbone: {one_line(error)}") from error
