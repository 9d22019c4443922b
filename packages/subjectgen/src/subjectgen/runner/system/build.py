"""From an experiment to its parts: every component built, every width checked against its neighbour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from subjectgen.core import Finder, HasWidth
from subjectgen.core.part import Part
from subjectgen.runner.system.branch import Branch
from subjectgen.runner.system.experiment import BranchParts, Experiment
from subjectgen.runner.system.fit import check_autoencoder, check_branch, check_guidance
from subjectgen.runner.system.lazy import Lazy
from subjectgen.runner.system.residency import Residency
from subjectgen.runner.system.settings import MemorySettings
from subjectgen.runner.system.system import System

Make = Callable[..., Any]
"""Builds a part with what only the run knows."""


def build_system(
    experiment: Experiment,
    *,
    device: torch.device | str = "cpu",
    memory: MemorySettings | None = None,
    reuse: System | None = None,
    make: Make = Part.build,
) -> System:
    """Build every part, in evaluation mode.

    Args:
        experiment: What to build.
        device: Where to run.
        memory: How to fit the device, for generating; call ``residency.settle()`` of the system once weights are
            loaded. ``None``: everything is put on the device now.
        reuse: A system whose frozen parts are taken where they are the same, unless it fits the device in another
            way: what one moves or packs is not where another expects it. Its backbone is taken if the trained weights
            are to be the same, too.
        make: Builds one part, ``make(part, **runtime)``; for those who build without weights.
    """
    device, settings = torch.device(device), experiment.settings
    if reuse is not None and reuse.experiment.settings.memory != settings.memory:
        reuse = None
    frozen = _frozen(reuse)
    shared = reuse is not None and _same_backbone(reuse, experiment)
    with torch.random.fork_rng(devices=[]):  # new parts start from the experiment's seed, the caller's stays
        torch.manual_seed(settings.seed)
        with _nowhere(device):
            backbone = reuse.backbone if reuse and shared else make(experiment.parts.backbone)
        autoencoder = _once(frozen, experiment.parts.autoencoder, make)
        check_autoencoder(experiment, autoencoder, backbone)
        branches = {
            name: _branch(name, parts, backbone, frozen, device=device, make=make, experiment=experiment)
            for name, parts in experiment.parts.branches.items()
        }
    schedule = experiment.parts.schedule.build(branches=tuple(branches))
    check_guidance(experiment, schedule, backbone)
    trained_parts = [part for branch in branches.values() for part in (branch.aggregator, branch.injector)]
    for module in (backbone, *trained_parts):
        if isinstance(module, nn.Module):
            module.eval()
    residency = Residency(
        memory,
        device,
        backbone=backbone,
        encoders=[branch.encoder for branch in branches.values()],
        others=[autoencoder, *trained_parts],
        shared=shared,
    )
    return System(
        experiment=experiment,
        backbone=backbone,
        autoencoder=autoencoder,
        branches=branches,
        schedule=schedule,
        residency=residency,
        lazy_finder=Lazy(lambda: _finder(experiment.parts.finder, device)),
    )


def _frozen(reuse: System | None) -> dict[str, Any]:
    """Built encoders and autoencoders by identity."""
    if reuse is None:
        return {}
    parts = reuse.experiment.parts
    found = {parts.autoencoder.identity: reuse.autoencoder}
    return found | {parts.branches[name].encoder.identity: branch.encoder for name, branch in reuse.branches.items()}


def _same_backbone(reuse: System, experiment: Experiment) -> bool:
    same = reuse.experiment.parts.backbone.identity == experiment.parts.backbone.identity
    return same and reuse.experiment.settings.trained == experiment.settings.trained


def _once(frozen: dict[str, Any], part: Part, make: Make) -> Any:
    """Build a frozen part once, however often the file names it."""
    if part.identity not in frozen:
        frozen[part.identity] = make(part)
    return frozen[part.identity]


def _branch(
    name: str,
    parts: BranchParts,
    backbone: Any,
    frozen: dict[str, Any],
    *,
    device: torch.device,
    make: Make,
    experiment: Experiment,
) -> Branch:
    encoder = _once(frozen, parts.encoder, make)
    with _nowhere(device):
        injector = make(parts.injector, backbone=backbone)
        aggregator = None
        if parts.aggregator is not None:
            aggregator = make(parts.aggregator, **_widths(encoder, injector, backbone))
    branch = Branch(name=name, encoder=encoder, aggregator=aggregator, injector=injector)
    check_branch(experiment, branch, parts)
    return branch


def _widths(encoder: Any, injector: Any, backbone: Any) -> Mapping[str, Any]:
    return {
        "width": encoder.width,
        "depth": encoder.depth,
        "context_width": injector.width if isinstance(injector, HasWidth) else backbone.context_width,
        "pooled_width": backbone.pooled_width,
    }


def _nowhere(device: torch.device) -> AbstractContextManager[Any]:
    """Where parts with new weights are made: nowhere at all for a system that is only counted."""
    return torch.device("meta") if device.type == "meta" else nullcontext()


def _finder(part: Part | None, device: torch.device) -> Finder | None:
    if part is None:
        return None
    finder: Any = part.build()
    if isinstance(finder, nn.Module):
        finder.to(device).eval()
    return finder
