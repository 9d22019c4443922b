"""FLUX.1 from one safetensors file in its authors' own layout (``flux1-dev.safetensors``), converted by diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from subjectgen.backbones.site_transformer import FluxTransformer2DModel
from subjectgen.core import CheckpointError
from subjectgen.core.weights import quiet, reading, tensor_shapes

WIDTH = 3072
"""diffusers' converter splits the fused layers of single blocks at this width, whatever the file's."""
AXES = {128: (16, 56, 56)}
"""Position channels by the width of a head; a file does not tell them, and all FLUX.1 models have these."""
PREFIX = "model.diffusion_model."
DIFFUSERS = ("transformer_blocks.", "single_transformer_blocks.", "time_text_embed.", "context_embedder.")
"""Starts of names that only diffusers' format has."""


def load_single_file(file: Path, *, dtype: torch.dtype) -> FluxTransformer2DModel:
    """Load a FLUX.1 transformer; its size is read from the shapes of its tensors, nothing is downloaded.

    Raises:
        CheckpointError: cut off, another architecture or format, a width that diffusers cannot convert, or tensors
            that are missing or of another shape.
    """
    sizes = architecture(file)
    with reading("a FluxTransformer2DModel", str(file)), quiet(), TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(sizes))
        try:
            transformer = FluxTransformer2DModel.from_single_file(
                str(file), config=folder, torch_dtype=dtype, local_files_only=True
            )
        except KeyError as error:
            raise CheckpointError(f"{file}: tensor {error} is missing") from error
    empty = sorted(name for name, parameter in transformer.named_parameters() if parameter.is_meta)
    if empty:
        raise CheckpointError(f"{file}: {len(empty)} tensors are missing, such as {empty[0]}")
    return transformer


def architecture(file: Path) -> dict[str, Any]:
    """A FLUX.1 file's sizes under diffusers' names, from its header.

    Raises:
        CheckpointError: cut off, another architecture or format, or a width that diffusers cannot convert.
    """
    shapes = {name.removeprefix(PREFIX): shape for name, shape in tensor_shapes(file).items()}
    if any(name.startswith(DIFFUSERS) for name in shapes):
        raise CheckpointError(f"{file}: in diffusers' format; name its folder instead: {file.parent}")
    try:
        return _sizes(file, shapes)
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{file}: no FLUX.1 transformer in its authors' layout, for tensor {error} is missing or of another rank"
        ) from error


def _sizes(file: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    width, channels = shapes["img_in.weight"]
    head_width = shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0]
    if width != WIDTH or head_width not in AXES:
        raise CheckpointError(
            f"{file}: width {width} with heads of {head_width}; diffusers converts single files of width {WIDTH} with"
            f" heads of {', '.join(map(str, AXES))} only. Convert it to a folder with save_pretrained, and name that"
        )
    return {
        "_class_name": "FluxTransformer2DModel",
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0],
        "num_layers": _count(shapes, "double_blocks."),
        "num_single_layers": _count(shapes, "single_blocks."),
        "attention_head_dim": head_width,
        "num_attention_heads": width // head_width,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": AXES[head_width],
    }


def _count(shapes: dict[str, tuple[int, ...]], prefix: str) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith(prefix)})
