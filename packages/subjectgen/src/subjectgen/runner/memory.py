"""How generating fits a device: what is where and when, and in which precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from subjectgen.core import ComponentError
from subjectgen.runner.experiment import MemorySettings

CPU = torch.device("cpu")
LIBRARIES = {"int8": "torchao", "int4": "bitsandbytes"}
"""Who quantizes the backbone's weights."""


class Residency:
    """Which parts are on the device, by what runs next.

    Without settings everything stays on the device: that is how training has it.
    """

    def __init__(
        self,
        settings: MemorySettings | None,
        device: torch.device,
        *,
        backbone: nn.Module,
        encoders: Iterable[nn.Module],
        others: Iterable[nn.Module],
        shared: bool = False,
    ) -> None:
        """``encoders`` run before the backbone; ``others`` are small, or run after it, and always stay.

        ``shared``: another system has settled this backbone already, with the same settings.
        """
        self.settings, self.device, self.shared = settings, device, shared
        self._backbone = backbone
        self._others = _distinct(others)
        self._encoders = [one for one in _distinct(encoders) if not any(one is other for other in self._others)]
        if settings is None:
            for module in (backbone, *self._encoders, *self._others):
                module.to(device)

    @property
    def moves(self) -> bool:
        """Whether parts leave the device, so that it pays to encode several batches before the first is denoised."""
        return self.settings is not None and self.settings.offload != "none"

    @property
    def whole_backbone(self) -> bool:
        """Whether all of the backbone is on the device while it runs."""
        return self.settings is None or self.settings.offload != "group"

    @property
    def release_modulation(self) -> bool:
        """Whether the weights that are not needed between steps leave the device while sampling."""
        return self.settings is not None and self.settings.release_modulation

    def settle(self) -> None:
        """Precision, quantization, hooks, and everything in its first place; once, after weights were loaded.

        Raises:
            ComponentError: A library that quantizes is not installed, or nothing can be quantized.
        """
        if self.settings is None:
            return
        if not self.shared:
            self._fit_backbone(self.settings)
        stays = [*self._others] if self.moves else [self._backbone, *self._encoders, *self._others]
        for module in stays:
            module.to(self.device)

    def _fit_backbone(self, settings: MemorySettings) -> None:
        if settings.merge_adapters:
            merge_adapters(self._backbone)
        dtype = precision(settings, self.device)
        if dtype is not None:
            self._backbone.to(dtype)
        if settings.weights != "none":
            quantize(self._backbone, settings.weights, dtype or _dtype(self._backbone))
        if settings.offload == "group":
            offload_groups(self._backbone, self.device)

    def encoding(self) -> None:
        """Encoders run next."""
        self._turn(leave=[self._backbone] if self.whole_backbone else [], come=self._encoders)

    def denoising(self) -> None:
        """The backbone runs next."""
        self._turn(leave=self._encoders, come=[self._backbone] if self.whole_backbone else [])

    def decoding(self) -> None:
        """The autoencoder runs next, and wants the room for its activations."""
        self._turn(leave=[*self._encoders, *([self._backbone] if self.whole_backbone else [])], come=[])

    def _turn(self, *, leave: Sequence[nn.Module], come: Sequence[nn.Module]) -> None:
        if not self.moves:
            return
        for module in leave:
            module.to(CPU)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # else the room stays in blocks of the wrong size
        for module in come:
            module.to(self.device)


def merge_adapters(backbone: nn.Module) -> None:
    """Fold the backbone's adapter into its weights.

    Raises:
        ComponentError: A backbone that cannot.
    """
    merge = getattr(backbone, "merge_lora", None)
    if merge is None:
        raise ComponentError("memory.merge_adapters: this backbone cannot merge an adapter; remove the option")
    merge()


def precision(settings: MemorySettings, device: torch.device) -> torch.dtype | None:
    """What the backbone's weights become for generating; ``None``: as they are."""
    if settings.dtype is not None:
        chosen: torch.dtype = getattr(torch, settings.dtype)
        return chosen
    return torch.bfloat16 if device.type == "cuda" else None


# ------------------------------------------------------------------------------------------------- quantization


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


# -------------------------------------------------------------------------------------------------- group offload


def offload_groups(backbone: nn.Module, device: torch.device) -> None:
    """Keep the backbone in the CPU's memory; its blocks come one at a time, the next while one computes.

    diffusers' group offloading: by block for its own models, by leaf for others. It hands blocks copies of all that it
    moves; what attentions get for themselves is where it belongs, and some of it they fill.
    """
    from diffusers import ModelMixin
    from diffusers.hooks import apply_group_offloading

    models = [module for module in backbone.modules() if isinstance(module, ModelMixin)]
    options = {"onload_device": device, "offload_device": CPU, "use_stream": device.type == "cuda"}
    options["exclude_kwargs"] = ["joint_attention_kwargs", "by_site"]
    for model in models or [backbone]:
        kind = {"offload_type": "block_level", "num_blocks_per_group": 1} if models else {"offload_type": "leaf_level"}
        apply_group_offloading(model, **options, **kind)


def _distinct(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return list({id(module): module for module in modules}.values())


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
