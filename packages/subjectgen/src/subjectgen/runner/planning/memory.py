"""Memory of weights, optimizer and activations, and what fits on which card.

What is on the card when is :class:`subjectgen.runner.system.residency.Residency`'s, written down as sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from subjectgen.core import Prepares
from subjectgen.runner.planning.dry_run import Cost
from subjectgen.runner.system.quantization import frozen_linears
from subjectgen.runner.system.settings import MemorySettings

CARDS = (24, 48, 80, 141)
"""GB (1e9 bytes) of the cards that are asked about."""
RESERVED = 1.0e9
"""Kept free for the driver's context, library workspaces and fragmentation."""
ADAM = 8
"""Bytes per trained parameter: AdamW's two moments in float32."""


def int8_bytes(weight: Tensor, element: int) -> float:
    """Weight-only 8 bits of torchao: a byte per weight, a scale per row."""
    return weight.numel() + len(weight) * element


def int4_bytes(weight: Tensor, element: int) -> float:
    """NF4 of bitsandbytes: half a byte per weight, a byte per 64 of them for their scale, and a float32 for each 256
    scales (double quantisation, arXiv 2305.14314).
    """
    return weight.numel() * (0.5 + 1 / 64 + 4 / (64 * 256))


PACKED = {"int8": int8_bytes, "int4": int4_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneBytes:
    """A backbone's weights in one precision."""

    whole: float
    modulation: float = 0
    """Of it: what leaves once the modulation of all steps is computed."""
    block: float = 0
    """The largest part that group offloading moves at once."""
    outside: float = 0
    """What group offloading leaves on the card."""
    unpacked: float = 0
    """A quantised weight while it is used: the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Bytes of each group of parts, while generating."""

    encoders: float
    """They leave where there is offloading."""
    others: float
    """Autoencoder, aggregators, injectors: always on the card."""
    backbone: Mapping[str, BackboneBytes]
    """By ``memory.weights``; with an adapter, also merged."""

    @classmethod
    def of(cls, system: Any, dtype: torch.dtype | None) -> Weights:
        """Those of a built system, each module once; the backbone's weights in ``dtype``, ``None`` as they are."""
        others = {id(module): module for module in (system.autoencoder, *system.branch_modules().values())}
        encoders = {id(b.encoder): b.encoder for b in system.branches.values() if id(b.encoder) not in others}
        linears = {id(system.backbone.get_submodule(name).weight) for name in frozen_linears(system.backbone)}
        adapter = {id(p) for name, p in system.backbone.named_parameters() if ".lora_" in name}
        return cls(
            encoders=size(p for module in encoders.values() for p in module.parameters()),
            others=size(p for module in others.values() for p in module.parameters()),
            backbone={
                _form(kind, merged): _backbone(
                    system.backbone, kind, packed=linears, gone=adapter if merged else set(), dtype=dtype
                )
                for kind in (("none", *PACKED) if linears else ("none",))
                for merged in ((False, True) if adapter else (False,))
            },
        )

    def of_backbone(self, settings: MemorySettings) -> BackboneBytes:
        """The backbone as these settings make it; one without an adapter has nothing to merge."""
        merged = _form(settings.weights, settings.merge_adapters)
        return self.backbone[merged if merged in self.backbone else settings.weights]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Most memory beside weights, by moment."""

    encoding: float
    denoising: float
    """Of one step with all rows and passes, and what stays for all steps."""
    decoding: float
    modulation: float = 0
    """The computed modulation of all steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to generate, what it needs, and where it fits."""

    options: str
    """What to add to the command; empty: nothing, the experiment as it is."""
    settings: Mapping[str, Any]
    """The whole of ``memory:``."""
    bytes: float
    moments: Mapping[str, float]
    """Bytes while encoding, denoising, decoding."""
    fits: tuple[int, ...]
    """Cards of :data:`CARDS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """One way to train: what is always there, what each sample adds, and the largest micro-batch per card."""

    options: str
    """As for :class:`Row`."""
    static_bytes: float
    sample_bytes: float
    micro_batch: Mapping[int, int]
    """Rows that fit at once, by card; 0: none does."""


def moments(weights: Weights, runs: Activations, settings: MemorySettings) -> dict[str, float]:
    """Bytes on the card while encoding, denoising and decoding."""
    backbone = weights.of_backbone(settings)
    steps = runs.denoising + backbone.unpacked
    whole = backbone.whole - settings.release_modulation * backbone.modulation  # which never comes to the card
    group = 2 * backbone.block + backbone.outside  # a block at work, and the next on its way, with its modulation
    here = group if settings.offload == "group" else whole + runs.modulation
    stays, waits = weights.others, whole
    if settings.offload == "none":
        stays += weights.encoders
    else:
        waits = 0.0
    return {
        "encoding": weights.encoders + weights.others + waits + max(runs.encoding, runs.modulation if waits else 0),
        "denoising": stays + here + steps,
        "decoding": stays + waits + runs.decoding,
    }


def inference_rows(weights: Weights, runs: Activations, asked: MemorySettings) -> list[Row]:
    """Ways to generate: as the experiment asks, then from the simplest to the smallest."""
    away = {"offload": "encoders"}
    ways: list[dict[str, Any]] = [{}, {"release_modulation": True}, away, away | {"release_modulation": True}]
    ways += [away | {"release_modulation": True, "merge_adapters": True}]
    ways += [away | {"weights": "int8"}, away | {"weights": "int8", "release_modulation": True}]
    ways += [away | {"weights": "int4"}, {"weights": "int4"}, {"offload": "group"}]
    plain = {"offload": "none", "weights": "none", "release_modulation": False}
    wanted = [asked.model_dump()]
    wanted += [wanted[0] | plain | way for way in ways if _possible(weights, way)]
    rows = []
    for values in (values for number, values in enumerate(wanted) if values not in wanted[:number]):
        found = moments(weights, runs, MemorySettings.model_validate(values))
        need, options = max(found.values()), _options(values, wanted[0])
        rows.append(Row(options=options, settings=values, bytes=need, moments=found, fits=_fits(need)))
    return rows


def training_rows(
    static: float, *, activations: Mapping[str, float], beside: float, asked: str = ""
) -> list[TrainingRow]:
    """Ways to train.

    Args:
        static: Bytes that are always there.
        activations: Bytes per sample that the backbone needs, by the option that makes it so.
        beside: Bytes per sample of hidden states and of what aggregators and injectors keep.
        asked: The option that the experiment has.
    """
    return [
        TrainingRow(
            options="" if option == asked else option,
            static_bytes=static,
            sample_bytes=each + beside,
            micro_batch={card: _batch(card, static, each + beside) for card in CARDS},
        )
        for option, each in sorted(activations.items(), key=lambda item: item[0] != asked)
    ]


def training_static(system: Any, *, autocast: bool, averaged: bool = False) -> float:
    """Weights, gradients in the weights' own types, AdamW's moments, averages (EMA) in float32, and autocast's copies
    of float32 weights.
    """
    modules = (system.backbone, *system.encoders().values(), *system.branch_modules().values())
    parameters = {id(p): p for module in modules for p in module.parameters()}
    trained = list({id(p): p for p in system.trainable().values()}.values())
    copies = sum(2 * p.numel() for p in trained if p.dtype == torch.float32) if autocast else 0
    each = ADAM + (4 if averaged else 0)
    return size(parameters.values()) + size(trained) + each * sum(p.numel() for p in trained) + copies


def checkpointed_bytes(forward: Cost, inputs: float, blocks: int) -> float:
    """What full gradient checkpointing needs: the input of every block, and all of the one at work."""
    return blocks * inputs + forward.saved_bytes / max(blocks, 1) + forward.peak_bytes - forward.saved_bytes


def size(parameters: Iterable[Tensor]) -> int:
    """Bytes of parameters."""
    return sum(p.numel() * p.element_size() for p in parameters)


def _possible(weights: Weights, way: Mapping[str, Any]) -> bool:
    """Whether the backbone has what the way wants to make smaller."""
    if way.get("release_modulation") and not weights.backbone["none"].modulation:
        return False
    return _form(way.get("weights", "none"), way.get("merge_adapters", False)) in weights.backbone


def _fits(need: float) -> tuple[int, ...]:
    return tuple(card for card in CARDS if need + RESERVED <= card * 1e9)


def _options(values: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    changed = {name: value for name, value in values.items() if value != asked[name]}
    said = {True: "true", False: "false"}
    return " ".join(f"--set memory.{name}={said.get(value, value)}" for name, value in changed.items())


def _batch(card: int, static: float, each: float) -> int:
    return max(int((card * 1e9 - RESERVED - static) // each), 0) if each else 0


# ------------------------------------------------------------------------------------------------------ backbone


def _form(kind: str, merged: bool) -> str:
    return f"{kind}, adapter merged" if merged else kind


def _backbone(
    backbone: nn.Module, kind: str, *, packed: Set[int], gone: Set[int], dtype: torch.dtype | None
) -> BackboneBytes:
    """Bytes when weights ``packed`` are of this kind, and others, but for those ``gone``, in ``dtype``."""
    stored = {}
    for p in backbone.parameters():
        element = (dtype if dtype is not None and p.is_floating_point() else p.dtype).itemsize
        small = kind != "none" and id(p) in packed
        stored[id(p)] = PACKED[kind](p, element) if small else 0 if id(p) in gone else p.numel() * element

    def total(*modules: nn.Module) -> float:
        return sum(stored[key] for key in {id(p) for module in modules for p in module.parameters()})

    blocks = [total(block) for block in _groups(backbone)]
    unpacked = [2 * p.numel() for p in backbone.parameters() if kind != "none" and id(p) in packed]
    return BackboneBytes(
        whole=sum(stored.values()),
        modulation=total(*_modulation(backbone)),
        block=max(blocks, default=0),
        outside=sum(stored.values()) - sum(blocks),
        unpacked=max(unpacked, default=0),
    )


def _modulation(backbone: nn.Module) -> list[nn.Module]:
    """What is not needed once the conditions of all steps are computed, of backbones that can do so."""
    return list(backbone.only_prepares()) if isinstance(backbone, Prepares) else []


def _groups(backbone: nn.Module) -> list[nn.Module]:
    """What group offloading moves at once: blocks of diffusers' models, of others every leaf."""
    models = [module for module in backbone.modules() if isinstance(module, ModelMixin)]
    if models:
        children = (child for model in models for child in model.children())
        return [block for child in children if isinstance(child, nn.ModuleList | nn.Sequential) for block in child]
    return [module for module in backbone.modules() if not any(True for _ in module.children())]
