"""LoRA files of any trainer, read as diffusers reads them, or refused with what they are.

Names are converted by diffusers' own converter. What a header or a file says beyond rank and alpha changes numbers in
ways that are not read here, so it is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from subjectgen.core import CheckpointError
from subjectgen.core.errors import one_line
from subjectgen.core.weights import verify

LORA_FILE = "lora.safetensors"
FOREIGN_FILES = ("dit_lora.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What UNO, diffusers and peft call it."""
PREFIX = "transformer."
METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers looks for rank, alpha and targets in a file's header."""
PEFT_CONFIG = "adapter_config.json"
"""Where peft keeps them, beside the file."""
PEFT_PREFIX = "base_model.model."
FUSE = "load it with FluxPipeline.load_lora_weights, fuse_lora and save_pretrained, and name the result as checkpoint"
"""What helps where a file is no adapter of the kind that is trained here."""

LAYOUTS = {
    "lokr_": "LyCORIS LoKr",
    "hada_": "LyCORIS LoHa",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".processor.": "x-flux (also UNO)",
    "lora_unet_": "kohya-ss",
    ".lora_down.": "kohya-ss",
    "query_norm.scale": "FLUX Control of Black Forest Labs",
    "base_model.": "peft",
    ".lora_A.": "diffusers (also ai-toolkit)",
}
"""What a part of a tensor's name tells of the file; the first that is found."""
NO_LORA = ("LyCORIS LoKr", "LyCORIS LoHa", "DoRA")
HARMLESS = frozenset(
    {
        *("r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *(
            "modules_to_save",
            "lora_dropout",
            "inference_mode",
            "peft_type",
            "task_type",
            "auto_mapping",
            "peft_version",
        ),
        *("base_model_name_or_path", "revision", "megatron_core"),
    }
)
"""Fields of a header that are heeded, or that tensors say themselves, or that change no number."""
HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the adapted weights alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAFile:
    """An adapter's tensors under diffusers' names, and its scale."""

    tensors: dict[str, Tensor]
    alpha: float | None
    """``None`` where nothing tells: then it is the rank, as for diffusers."""
    layout: str
    """Whose names the file has."""


def find_lora(folder: Path) -> Path:
    """The LoRA in a folder: ours, or one under another trainer's name; where there is none, the place of ours."""
    there = [folder / name for name in (LORA_FILE, *FOREIGN_FILES) if (folder / name).is_file()]
    return there[0] if there else folder / LORA_FILE


def read_lora(path: Path) -> LoRAFile:
    """Read a LoRA of any layout that diffusers knows.

    Raises:
        CheckpointError: no such file, not a safetensors file, no plain LoRA, or a field that changes numbers and is
            not read.
    """
    tensors, header = _read(path)
    layout = next((name for part, name in LAYOUTS.items() if any(part in key for key in tensors)), "unknown")
    if layout in NO_LORA:
        raise CheckpointError(f"{path}: a {layout}, not a plain LoRA; {FUSE}")
    if layout in ("peft", "diffusers (also ai-toolkit)"):
        tensors = _with_prefix(tensors)
    tensors, alphas = _converted(tensors, layout, path)
    _check_header(header, path)
    said = {float(value) for value in (header.get("lora_alpha"), *alphas.values()) if value is not None}
    if len(said) > 1:
        raise CheckpointError(f"{path}: {layout}: alpha differs between modules: {sorted(said)}; {FUSE}")
    return LoRAFile(tensors=tensors, alpha=said.pop() if said else None, layout=layout)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and the fields of the header without their prefix."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a LoRA in safetensors")
    verify(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        if (path.parent / PEFT_CONFIG).is_file() and not header:
            header = json.loads((path.parent / PEFT_CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    fields = header if isinstance(header, dict) else {}
    return tensors, {str(key).removeprefix(PREFIX): value for key, value in fields.items()}


def _with_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Peft's own names, and those of a transformer alone, as a pipeline has them."""
    blocks = ("transformer_blocks.", "single_transformer_blocks.", f"{PREFIX}transformer_blocks.")
    peft = any(name.startswith(PEFT_PREFIX) and name.removeprefix(PEFT_PREFIX).startswith(blocks) for name in tensors)
    bare = {name.removeprefix(PEFT_PREFIX) if peft else name: value for name, value in tensors.items()}
    return {PREFIX + name if name.startswith(blocks[:2]) else name: value for name, value in bare.items()}


def _converted(tensors: dict[str, Tensor], layout: str, path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under diffusers' names, and alphas that are not yet multiplied in."""
    try:
        found, alphas = FluxLoraLoaderMixin.lora_state_dict(dict(tensors), return_alphas=True)
    except (ValueError, KeyError, RuntimeError, AttributeError, AssertionError, IndexError) as error:
        raise CheckpointError(
            f"{path}: layout of {layout}, which diffusers cannot convert: {one_line(error)}; expected a LoRA of FLUX.1"
        ) from error
    return {name: value.contiguous() for name, value in found.items()}, alphas or {}


def _check_header(header: Mapping[str, Any], path: Path) -> None:
    """Refuse what changes numbers and is not read."""
    defaults = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    same = {"alpha_pattern": header.get("lora_alpha"), "rank_pattern": header.get("r")}
    for name, value in header.items():
        if name in HARMLESS or value in (None, False, "", "none") or value in ([], {}) or value == defaults.get(name):
            continue
        if name in same and isinstance(value, dict) and set(value.values()) == {same[name]}:
            continue
        if name == "init_lora_weights" and value in HARMLESS_STARTS:
            continue
        raise CheckpointError(
            f"{path}: header says {name}: {value}, which changes numbers and is not read here; {FUSE}"
        )
