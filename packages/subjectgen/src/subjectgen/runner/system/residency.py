"""How generating fits a device: what is where and when, and in which precision."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from subjectgen.core import ComponentError, KeepsArguments, Merges, Prepares
from subjectgen.runner.system.quantization import quantize
from subjectgen.runner.system.settings import MemorySettings

CPU = torch.device("cpu")


class Residency:
    """Which parts are on the device, by what runs next.

    Without settings everything stays on the device: that is how training has it. Where parts move, requests take turns.
    """

    def __init__(
        self,
        settings: MemorySettings | None,
        device: torch.device,
        *,
        backbone: nn.Module,
        encoders: Iterable[Any],
        others: Iterable[Any],
        shared: bool = False,
    ) -> None:
        """``encoders`` run before the backbone; ``others`` are small, or run after it, and always stay.

        ``shared``: another system has settled this backbone already, with the same settings.
        """
        self.settings, self.device, self.shared = settings, device, shared
        self._backbone = backbone
        self._others = _modules(others)
        self._encoders = [one for one in _modules(encoders) if not any(one is other for other in self._others)]
        self._turns = threading.RLock()
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

    def turn(self) -> AbstractContextManager[Any]:
        """For one request, from encoding to decoding: alone where parts move, beside others where all stay."""
        return self._turns if self.moves else nullcontext()

    def settle(self) -> None:
        """Precision, quantization, hooks, and everything in its first place; once, after weights were loaded.

        Raises:
            ComponentError: A library that quantizes is not installed, or nothing can be quantized.
        """
        if self.settings is None:
            return
        if not self.shared:
            self._fit_backbone(self.settings)
        for module in self._others if self.moves else (*self._encoders, *self._others):
            module.to(self.device)
        if not self.moves:
            self._bring_backbone()

    def _fit_backbone(self, settings: MemorySettings) -> None:
        if settings.merge_adapters:
            merge_adapter(self._backbone)
        dtype = precision(settings, self.device)
        if dtype is not None:
            self._backbone.to(dtype)
        if settings.weights != "none":
            quantize(self._backbone, settings.weights, dtype or _dtype(self._backbone))
        if settings.offload == "group":
            offload_groups(self._backbone, self.device)

    def encoding(self) -> None:
        """Encoders run next."""
        if self._turning(leave=[self._backbone] if self.whole_backbone else []):
            for module in self._encoders:
                module.to(self.device)

    def denoising(self) -> None:
        """The backbone runs next."""
        if self._turning(leave=self._encoders) and self.whole_backbone:
            self._bring_backbone()

    def decoding(self) -> None:
        """The autoencoder runs next, and wants the room for its activations."""
        self._turning(leave=[*self._encoders, *([self._backbone] if self.whole_backbone else [])])

    def _turning(self, *, leave: Sequence[nn.Module]) -> bool:
        if not self.moves:
            return False
        for module in leave:
            module.to(CPU)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # else the room stays in blocks of the wrong size
        return True

    def _bring_backbone(self) -> None:
        """Put the backbone on the device, but for what is only needed before the first step, where that may stay."""
        stays: Sequence[nn.Module] = ()
        if self.settings is not None and self.settings.release_modulation and isinstance(self._backbone, Prepares):
            stays = self._backbone.only_prepares()
        inside = {id(module) for one in stays for module in one.modules()}
        for module in self._backbone.modules():
            if id(module) not in inside:
                module._apply(lambda tensor: tensor.to(self.device), recurse=False)


def merge_adapter(backbone: nn.Module) -> None:
    """Fold the backbone's adapter into its weights.

    Raises:
        ComponentError: A backbone that cannot.
    """
    if not isinstance(backbone, Merges):
        raise ComponentError("memory.merge_adapters: this backbone cannot merge an adapter; remove the option")
    backbone.merge_adapter()


def precision(settings: MemorySettings, device: torch.device) -> torch.dtype | None:
    """What the backbone's weights become for generating; ``None``: as they are."""
    if settings.dtype is not None:
        chosen: torch.dtype = getattr(torch, settings.dtype)
        return chosen
    return torch.bfloat16 if device.type == "cuda" else None


def offload_groups(backbone: nn.Module, device: torch.device) -> None:
    """Keep the backbone in the CPU's memory; its blocks come one at a time, the next while one computes.

    diffusers' group offloading: by block for its own models, by leaf for others. It hands blocks copies of all that it
    moves; what attentions get for themselves is where it belongs, and some of it they fill.
    """
    from diffusers import ModelMixin
    from diffusers.hooks import apply_group_offloading

    models = [module for module in backbone.modules() if isinstance(module, ModelMixin)]
    options = {"onload_device": device, "offload_device": CPU, "use_stream": device.type == "cuda"}
    options["exclude_kwargs"] = list(backbone.unmoved_arguments) if isinstance(backbone, KeepsArguments) else []
    for model in models or [backbone]:
        kind = {"offload_type": "block_level", "num_blocks_per_group": 1} if models else {"offload_type": "leaf_level"}
        apply_group_offloading(model, **options, **kind)


def _modules(parts: Iterable[Any]) -> list[nn.Module]:
    """Those that can be moved, each once."""
    return list({id(part): part for part in parts if isinstance(part, nn.Module)}.values())


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
