"""An experiment built without weights: every part as in training and sampling, with shapes in place of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from subjectgen.backbones.single_file import architecture
from subjectgen.core import CheckpointError, Config, Part, SubjectgenError
from subjectgen.runner.planning.shipped import Shipped, is_local
from subjectgen.runner.planning.stand_ins import StandIns
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.system import System

WEIGHTY = ("encoders", "autoencoders", "backbones")
"""Kinds that have weights of their own."""


def build_blueprint(experiment: Experiment) -> System:
    """All parts of an experiment on torch's ``meta`` device, whatever checkpoints it names.

    A component with weights of its own is made by the first way that it offers: its classmethod
    ``planned(config, sources)``; a config with ``checkpoint`` and ``architecture``, whose sizes are then read from
    ``config.json``; or as always, where its weights are on this machine.

    Raises:
        CheckpointError: A hub id whose sizes are not known without a download.
    """
    shipped = Shipped(experiment.plugins)

    def make(part: Part, **runtime: Any) -> Any:
        if part.kind not in WEIGHTY:
            return part.build(**runtime)
        try:
            return _without_weights(part.target, part.config, shipped)
        except SubjectgenError as error:
            raise experiment.loaded.error(part.where, str(error)) from error

    return build_system(experiment, device="meta", make=make)


def _without_weights(target: Any, config: Config, shipped: Shipped) -> Any:
    with torch.device("meta"):
        if hasattr(target, "planned"):
            return target.planned(config, StandIns(shipped))
        sized = _sized(config, shipped)
        if sized is not None:
            return target(sized)
    checkpoint = getattr(config, "checkpoint", None)
    if isinstance(checkpoint, str) and not is_local(checkpoint):
        if "architecture" in type(config).model_fields:
            place = "/".join(filter(None, (getattr(config, "subfolder", None), "config.json")))
            raise CheckpointError(
                f"checkpoint {checkpoint!r}: no {place} with the sizes of {target.__name__}; expected another subfolder"
            )
        raise CheckpointError(
            f"{target.__name__} cannot be planned from hub id {checkpoint!r}: it has neither a classmethod"
            " planned(config, sources) nor an option `architecture`"
        )
    return target(config)


def _sized(config: Config, shipped: Shipped) -> Config | None:
    """The config with an architecture in place of its checkpoint; ``None`` if it has no such option or file."""
    fields, checkpoint = type(config).model_fields, getattr(config, "checkpoint", None)
    if "architecture" not in fields or checkpoint is None:
        return config if "architecture" in fields else None
    found = _sizes(checkpoint, getattr(config, "subfolder", None) or "", shipped)
    nothing = {"checkpoint": None, "subfolder": None, "revision": None, "compile": False}
    unused = {name: value for name, value in nothing.items() if name in fields}
    for kind in _kinds(fields["architecture"].annotation):
        for values in (found, *(value for value in found.values() if isinstance(value, dict))):
            if kind.model_fields.keys() <= values.keys():
                sizes = {name: values[name] for name in kind.model_fields}
                return type(config).model_validate({**config.model_dump(), **unused, "architecture": sizes})
    return None


def _sizes(checkpoint: str, subfolder: str, shipped: Shipped) -> dict[str, Any]:
    """Of a folder or a hub id from its ``config.json``, of a FLUX file from its header."""
    file = Path(checkpoint).expanduser()
    return architecture(file) if file.is_file() else shipped.find(checkpoint, subfolder) or {}


def _kinds(annotation: Any) -> list[type[BaseModel]]:
    """Configs in ``A | None``."""
    found = (annotation, *getattr(annotation, "__args__", ()))
    return [one for one in found if isinstance(one, type) and issubclass(one, BaseModel)]
