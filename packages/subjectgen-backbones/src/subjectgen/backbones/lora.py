"""Low-rank adapters (LoRA, arXiv 2106.09685) on a FLUX transformer's attention, in diffusers' file format.

The file loads in plain diffusers: ``pipeline.load_lora_weights(folder)`` of a FluxPipeline, or
``transformer.load_lora_adapter(folder, weight_name="lora.safetensors")``; without the name the latter skips the
header, and takes alpha = rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from subjectgen.backbones.lora_files import METADATA_KEY, PREFIX, LoRAFile, read_lora
from subjectgen.backbones.options import LoRASettings
from subjectgen.core import CheckpointError
from subjectgen.core.files import atomic_write

ADAPTER = "default"

DOUBLE = r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
SINGLE = r"single_transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v)"
SINGLE_OUT = r"single_transformer_blocks\.\d+\.proj_out"
TARGETS = {
    "attention": f"{DOUBLE}|{SINGLE}",
    "attention_and_proj_out": f"{DOUBLE}|{SINGLE}|{SINGLE_OUT}",
}


def target_modules(transformer: nn.Module, targets: str) -> list[str]:
    """Names of the linear layers that are adapted."""
    pattern = re.compile(TARGETS[targets])
    return [name for name, _ in transformer.named_modules() if pattern.fullmatch(name)]


def add_lora(transformer: FluxTransformer2DModel, settings: LoRASettings) -> None:
    """Add a fresh adapter (it changes nothing yet); only its parameters stay trainable.

    They are float32 whatever the transformer's dtype: steps of 1e-5 are lost in bfloat16. Their values are drawn from
    torch's global generator, as those of any new module: fork it (``torch.random.fork_rng``) around building.
    """
    adapter = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.effective_alpha,
        target_modules=TARGETS[settings.targets],
        init_lora_weights="gaussian",  # as UNO and diffusers' own FLUX trainers
    )
    transformer.add_adapter(adapter, adapter_name=ADAPTER)
    transformer.requires_grad_(False)
    for parameter in lora_parameters(transformer).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def lora_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters under their names in the file."""
    marker = f".{ADAPTER}."
    return {
        PREFIX + name.replace(marker, "."): parameter
        for name, parameter in transformer.named_parameters()
        if ".lora_" in name and marker in name
    }


def save_lora(
    transformer: nn.Module, settings: LoRASettings, path: Path, values: Mapping[str, Tensor] | None = None
) -> None:
    """Write the adapter as safetensors with rank, alpha and target list in the header; never half a file.

    ``values``: in place of the parameters' own, by name.
    """
    chosen = lora_parameters(transformer) if values is None else values
    tensors = {name: value.detach().contiguous().cpu() for name, value in chosen.items()}
    description = {
        "r": settings.rank,
        "lora_alpha": settings.effective_alpha,
        "target_modules": sorted({re.sub(r"\.lora_[AB]\.weight$", "", n).removeprefix(PREFIX) for n in tensors}),
    }
    header = {"format": "pt", METADATA_KEY: json.dumps({PREFIX + key: value for key, value in description.items()})}
    with atomic_write(path) as unfinished:
        save_file(tensors, unfinished, metadata=header)


def load_lora(transformer: nn.Module, settings: LoRASettings, path: Path) -> None:
    """Read an adapter into the one that :func:`add_lora` made, from our file or another trainer's.

    Raises:
        CheckpointError: no such file, not a safetensors file, a layout that cannot be converted, a header that says
            more than is read, or rank, alpha or modules that differ from ``settings``.
    """
    file = read_lora(path)
    parameters = lora_parameters(transformer)
    _check_names(file, set(parameters), path)
    _check_scale(file, settings, path)
    for name, parameter in parameters.items():
        if file.tensors[name].shape != parameter.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(file.tensors[name].shape)};"
                f" the backbone expects {tuple(parameter.shape)}"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(file.tensors[name])


def merge_lora(transformer: FluxTransformer2DModel) -> None:
    """Add the update to the weights and remove the adapter: same function, less work per step."""
    transformer.fuse_lora(adapter_names=[ADAPTER])
    transformer.unload_lora()


def _check_scale(file: LoRAFile, settings: LoRASettings, path: Path) -> None:
    """Rank and alpha; where the file does not tell alpha it is the rank, as for diffusers."""
    tensors = file.tensors.items()
    for rank in sorted({tensor.shape[0] for name, tensor in tensors if ".lora_A." in name and tensor.dim()}):
        if rank != settings.rank:
            raise CheckpointError(f"{path}: made with rank {rank}; lora.rank is {settings.rank}")
    alpha = settings.rank if file.alpha is None else file.alpha
    if alpha != settings.effective_alpha:
        raise CheckpointError(f"{path}: made with alpha {alpha:g}; lora.alpha is {settings.effective_alpha:g}")


def _check_names(file: LoRAFile, expected: set[str], path: Path) -> None:
    found = set(file.tensors)
    for names, problem in ((found - expected, "match no adapted module"), (expected - found, "are missing")):
        if names:
            raise CheckpointError(
                f"{path}: layout of {file.layout}: {len(names)} of {len(found | expected)} tensors {problem}, such as"
                f" {min(names)}; check lora.targets and the checkpoint it was trained on"
            )
