"""Compiling the blocks of a transformer, each kind once per shape."""

from __future__ import annotations

import inspect

import diffusers
import torch

from subjectgen.backbones.options import CompileMode

VARIANTS = 64
"""Graphs that one kind of block may have: stages, passes and image sizes. torch gives up silently after 8."""


def compile_blocks(transformer: diffusers.FluxTransformer2DModel, mode: bool | CompileMode) -> None:
    """Compile every block for the exact shapes it meets; blocks of one kind share their graphs."""
    options: dict[str, object] = {"mode": None if isinstance(mode, bool) else mode, "dynamic": False}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options["recompile_limit"] = VARIANTS
    transformer.compile_repeated_blocks(**options)
