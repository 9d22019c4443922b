"""Experiments at full size with random weights, made on the device itself: no checkpoint, no download, no copy."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import diffusers
import torch
from torch import nn

from parts.session import ROOT, Session
from parts.stand_ins import StandIns as LocalPlugin
from subjectgen.backbones.compilation import VARIANTS, compile_blocks
from subjectgen.backbones.flux import FluxBackbone
from subjectgen.backbones.options import FluxArchitecture
from subjectgen.core import Part
from subjectgen.core.plugins import Plugins
from subjectgen.runner.planning.shipped import Shipped
from subjectgen.runner.planning.stand_ins import StandIns
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.settings import MemorySettings
from subjectgen.runner.system.system import System

diffusers.utils.logging.set_verbosity_error()  # it warns whenever an attention backend is chosen
WITHOUT_ADAPTER = "backbone.lora=null"
"""An adapter that is merged is an adapter that is not there: the same operations."""


def plugins() -> Plugins:
    """Installed plugins; those of this repository that are not installed are taken from their folders."""
    found = Plugins.discover()
    for path in sorted(ROOT.glob("packages/*/src/subjectgen/*/plugin.py")):
        distribution = path.parents[3].name
        if path.parent.name != "testing" and distribution not in found.distributions():
            module = importlib.import_module(f"subjectgen.{path.parent.name}.plugin")
            found.register(module, distribution=distribution, version="source")
    found.register(LocalPlugin(), distribution="gpu-session")
    return found


def random_system(
    experiment: Experiment, *, device: torch.device, memory: MemorySettings | None = None, blocks: bool = True
) -> System:
    """An experiment with random weights on its device.

    Encoders and autoencoder are built as ``subjectgen plan`` builds them, from shipped configs and with one token per
    word, but with numbers in their weights. The backbone takes its sizes from its checkpoint's config.
    """
    sources = StandIns(Shipped(experiment.plugins))

    def make(part: Part, **runtime: Any) -> Any:
        with torch.device(device):
            if hasattr(part.target, "planned"):
                return part.target.planned(part.config, sources)
            if isinstance(part.config, FluxBackbone.Config):
                return part.target(sized(part.config, blocks=blocks))
            return part.build(**runtime)

    made = build_system(experiment, device=device, memory=memory, make=make)
    nn.init.normal_(made.backbone.transformer.proj_out.weight, std=0.02)  # untrained, it is zero
    return made


def sized(config: FluxBackbone.Config, *, blocks: bool = True) -> FluxBackbone.Config:
    """The config with the checkpoint's sizes in place of its weights; without ``blocks`` only widths are right."""
    given = config.model_dump()
    sizes = given["architecture"]
    if config.checkpoint is not None:
        found = Shipped(plugins()).find(config.checkpoint, config.subfolder or "") or {}
        sizes = {name: found[name] for name in FluxArchitecture.model_fields}
    if not blocks:
        sizes |= {"num_layers": 0, "num_single_layers": 0}
        given |= {"lora": None, "gradient_checkpointing": False, "compile": False}
    given |= {"checkpoint": None, "subfolder": None, "revision": None, "architecture": sizes}
    return FluxBackbone.Config.model_validate(given)


def experiment(session: Session, changes: Sequence[str] = ()) -> Experiment:
    """The session's experiment, changed by the command line and by a part."""
    return Experiment.read(ROOT / session.sizes.experiment, [*changes, *session.changes], plugins())


def system(
    session: Session, changes: Sequence[str] = (), *, memory: MemorySettings | None = None, blocks: bool = True
) -> System:
    """Built, and nothing compiled."""
    torch.manual_seed(session.seed)
    return random_system(experiment(session, changes), device=session.device, memory=memory, blocks=blocks)


def denoiser(session: Session) -> System:
    """Backbone and autoencoder, the adapter merged; random tokens stand for the multimodal LLM. One for all parts.

    Its blocks are compiled if the session says so: run it :func:`eagerly`, or as it is.
    """
    if "denoiser" not in session.shared:
        sizes = experiment(session).settings.backbone
        config = Shipped(plugins()).find(sizes["checkpoint"], sizes.get("subfolder") or "") or {}
        width = config["joint_attention_dim"]
        encoder = f"{{name: random_tokens, image: {session.sizes.image_tokens}, width: {width}}}"
        changes = [f"branches.mllm.encoder={encoder}", "branches.mllm.aggregator=null", WITHOUT_ADAPTER]
        made = system(session, [*changes, "backbone.gradient_checkpointing=false"])
        use_attention(made, session.attention)
        if session.compiled:
            compiled(made)
        session.shared["denoiser"] = made
    return session.shared["denoiser"]


def compiled(made: System) -> None:
    """Compile the blocks as the backbone's option ``compile`` does."""
    torch._dynamo.config.recompile_limit = VARIANTS  # also where torch.compile takes no such argument
    compile_blocks(made.backbone.transformer, True)


def eagerly() -> AbstractContextManager[Any]:
    """Run what is compiled as if it were not."""
    return torch.compiler.set_stance("force_eager")


def use_attention(made: System, backend: str) -> None:
    """Choose diffusers' attention backend.

    Raises:
        Exception: Whatever says that it is not installed.
    """
    made.backbone.transformer.set_attention_backend(backend)


@contextmanager
def isolated(made: System, wanted: bool) -> Iterator[None]:
    """References attend to themselves alone, and their keys and values are kept over all steps."""
    backbone = made.backbone
    before = backbone.config
    backbone.config = before.model_copy(update={"reference_attention": "isolated" if wanted else "full"})
    try:
        yield
    finally:
        backbone.config = before


def release(session: Session) -> None:
    """Forget what parts share, so that the device is free."""
    session.shared.clear()
