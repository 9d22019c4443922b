"""Weights of the backbone's blocks in 8 or 4 bits."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from subjectgen.core import ComponentError

LIBRARIES = {"int8": "torchao", "int4": "bitsandbytes"}
"""Who quantizes."""


def quantize(backbone: nn.Module, weights: str, dtype: torch.dtype) -> list[str]:
    """Store the frozen linear layers of the backbone's repeated blocks in 8 or 4 bits; returns their names.

    ``int8``: torchao's weight-only quantization, one scale per output channel, as diffusers' ``TorchAoConfig`` has it.
    ``int4``: bitsandbytes' NF4 (QLoRA, arXiv 2305.14314), computing in ``dtype``; packed when moved to the device.

    Raises:
        ComponentError: The library is not installed, or there is no such layer.
    """
    library = LIBRARIES[weights]
    if find_spec(library) is None:
        raise ComponentError(f"memory.weights: {weights} needs {library}; pip install {library}, or weights: none")
    names = frozen_linears(backbone)
    if not names:
        raise ComponentError(f"memory.weights: {weights}: the backbone has no frozen linear layers in blocks")
    if weights == "int8":
        torchao: Any = import_module("torchao.quantization")
        torchao.quantize_(backbone, torchao.Int8WeightOnlyConfig(), filter_fn=lambda _, name: name in names)
        return names
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, _four_bits(backbone.get_submodule(name), dtype))
    return names


def frozen_linears(backbone: nn.Module) -> list[str]:
    """Names of linear layers inside lists of blocks, but for those of an adapter."""
    blocks = [name for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)]
    return [
        name
        for name, module in backbone.named_modules()
        if type(module) is nn.Linear and any(name.startswith(f"{block}.") for block in blocks) and ".lora_" not in name
    ]


def _four_bits(layer: Any, dtype: torch.dtype) -> nn.Module:
    bitsandbytes: Any = import_module("bitsandbytes.nn")
    packed: Any = bitsandbytes.Linear4bit(
        layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=dtype, quant_type="nf4"
    )
    packed.weight = bitsandbytes.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    packed.bias = layer.bias
    module: nn.Module = packed.to(layer.weight.device)
    return module
