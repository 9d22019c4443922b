"""Trained parts in and out of a folder: one safetensors file per part, and what their weights mean.

The folder appears whole or not at all. Beside the weights, ``trained.json`` holds the options they depend on and facts
of the frozen parts they were trained with; both are compared when they are loaded.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from subjectgen.core import Changes, CheckpointError, Defines, Trainable, resolve_checkpoint
from subjectgen.core.files import atomic_folder, recover_folder
from subjectgen.core.json_files import read_json, write_json
from subjectgen.core.part import Part
from subjectgen.core.roles import defaults, differences
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.fingerprint import encoder_facts, frozen_facts, warn_of_encoders, warn_of_weights
from subjectgen.runner.system.system import System

RESOLVED = "experiment.yaml"
"""In a run's folder: the experiment with everything filled in."""
FOLDER = "trained"
"""In a run's folder: what was trained."""
CHECKPOINTS = "checkpoints"
"""In a run's folder: what it needs to go on, by step; each holds a folder of trained parts."""
FACTS = "trained.json"
FORMAT = 2
"""Of :data:`FACTS`. Runs before it have no such file, and their weights lie beside the experiment."""


def trained_folder(name: str) -> Path:
    """Where the weights are, for a run's folder, or a folder with trained parts itself.

    Raises:
        CheckpointError: Nothing there, or tampered with.
    """
    folder = Path(resolve_checkpoint(name))
    recover_folder(folder / FOLDER)
    if (folder / FOLDER).is_dir():
        return folder / FOLDER
    newest = checkpoints(folder)[-1:]  # of a run that has not ended yet
    return newest[0] / FOLDER if newest else folder


def checkpoints(run: Path) -> list[Path]:
    """What a run kept on its way, oldest first."""
    return sorted(one for one in (run / CHECKPOINTS).glob("step-*") if (one / FOLDER).is_dir())


def save_trained(
    system: System,
    folder: Path,
    known: Mapping[str, Any] | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the trained parts; ``folder`` is replaced as a whole, and is as it was if anything fails.

    Args:
        system: With the parts.
        folder: Where to.
        known: The :func:`facts` of the system, for those who save often.
        values: Written in place of the system's :func:`trained_values`: averages, or what was copied for this. The
            system's own are then not looked at, for they may be in use.

    Raises:
        CheckpointError: A value that is not finite; names the parameter.
    """
    values = trained_values(system) if values is None else values
    check_finite(values)
    with atomic_folder(folder) as unfinished:
        if isinstance(system.backbone, Trainable):
            system.backbone.save_trained(unfinished, _of("backbone", values))
        for name in system.branch_modules():
            if state := _of(name, values):
                tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
                save_file(tensors, unfinished / f"{name}.safetensors", metadata={"format": "pt", "part": name})
        write_json(unfinished / FACTS, facts(system) if known is None else known)


def trained_values(system: System) -> dict[str, Tensor]:
    """What is saved, by name: parameters that training changes, and all that aggregators and injectors keep."""
    values: dict[str, Tensor] = {name: value.detach() for name, value in system.trainable().items()}
    for part, module in system.branch_modules().items():
        values |= {f"{part}.{key}": value for key, value in module.state_dict().items()}
    return values


def _of(part: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of one part, by their names in it."""
    return {key.removeprefix(f"{part}."): value for key, value in values.items() if key.startswith(f"{part}.")}


def check_finite(values: Mapping[str, Tensor]) -> None:
    """Nothing that is not finite is ever written.

    Raises:
        CheckpointError: Names the parameter.
    """
    for name, parameter in values.items():
        if not bool(torch.isfinite(parameter).all()):
            raise CheckpointError(f"{name}: holds values that are not finite; nothing was saved, earlier files stay")


def load_trained(system: System, *, may_differ: Collection[str] = ()) -> System:
    """The system with the weights that its experiment's ``trained`` names, read into its parts; as it is without.

    A backbone that is shared with a system of the same weights has them already. ``may_differ``: options that the
    weights may have been trained under other values of, for training that shall change what they mean.

    Raises:
        CheckpointError: A missing or tampered file, one of another shape, or weights that mean something else under
            this experiment's options; says which.
    """
    name = system.experiment.settings.trained
    if name is None:
        return system
    folder = trained_folder(name)
    check_options(system.experiment, folder, may_differ=may_differ)
    _check_resolved(system, folder)
    if isinstance(system.backbone, Trainable) and not system.residency.shared:
        system.backbone.load_trained(folder)
    for part_name, module in system.branch_modules().items():
        if module.state_dict():
            _load_part(folder / f"{part_name}.safetensors", module)
    stored = _stored(folder / FACTS)
    if stored is not None and not system.residency.shared:
        warn_of_weights(system, stored, folder / FACTS)
    return replace(system, trained=name)


def warn_of_other_encoders(system: System) -> None:
    """Warn of encoders that are not those the weights were trained with; for this, encoders may run."""
    if system.trained is None:
        return
    file = trained_folder(system.trained) / FACTS
    stored = _stored(file)
    if stored is not None:
        system.residency.encoding()
        warn_of_encoders(system, stored, file)


# -------------------------------------------------------------------------------------------------------- meaning


def facts(system: System) -> dict[str, Any]:
    """What is kept beside the weights."""
    return {
        "format": FORMAT,
        "experiment": system.experiment.name,
        "parts": {part.where: meaning(part) for part in system.experiment.parts.model()},
        "resolved": {where: _resolved(module) for where, module in system.branch_modules().items()},
        "frozen": frozen_facts(system),
        "encoders": encoder_facts(system),
    }


def meaning(part: Part) -> dict[str, Any]:
    """What trained weights depend on in one part."""
    return {"name": part.name, "distribution": part.offer.distribution, "weights": part.values(Changes.WEIGHTS)}


def _resolved(module: Any) -> dict[str, Any]:
    """Options as the built part understands them, such as layers by number, of parts that say so."""
    return dict(module.defining) if isinstance(module, Defines) else {}


def check_options(experiment: Experiment, folder: Path, *, may_differ: Collection[str] = ()) -> None:
    """Whether the weights in a folder mean the same under this experiment; only files are read.

    Options that only a built part understands are compared when the weights are loaded.

    Raises:
        CheckpointError: Names each option that differs, both values and the way out.
    """
    file = folder / FACTS
    stored = _stored(file)
    if stored is None:
        if folder.is_dir():
            warnings.warn(
                f"{folder}: written by a version before 0.2, without {FACTS}: whether the experiment's options are "
                "those it was trained with is not known",
                stacklevel=3,
            )
        return
    problems = [
        problem
        for part in experiment.parts.model()
        if part.where in stored["parts"]
        for problem in _problems(part, stored["parts"][part.where], stored["resolved"].get(part.where, {}), may_differ)
    ]
    if problems:
        raise CheckpointError("\n".join(f"{folder}: {problem}" for problem in problems))


def taught(experiment: Experiment) -> tuple[str, ...]:
    """Options that the experiment's training shall change the meaning of: trained under another value, weights are what
    it begins with.
    """
    training = experiment.settings.training
    return (ISOLATION,) if training is not None and training.phases[0].loss == "isolation" else ()


def _check_resolved(system: System, folder: Path) -> None:
    stored = _stored(folder / FACTS)
    if stored is None:
        return
    for where, module in system.branch_modules().items():
        then, now = stored["resolved"].get(where, {}), _resolved(module)
        for key in differences(then, now, now):
            raise CheckpointError(f"{folder}: {_refusal(f'{where}.{key}', then[key], now.get(key))}")


def _problems(
    part: Part, then: Mapping[str, Any], resolved: Mapping[str, Any], may_differ: Collection[str]
) -> Iterator[str]:
    now = meaning(part)
    if then["name"] != now["name"]:
        yield f"trained with {part.where}.name: {then['name']}; the experiment says {now['name']}: {_WAY_OUT}"
        return
    for key in differences(then["weights"], now["weights"], defaults(type(part.config))):
        if (
            f"{part.where}.{key}" in may_differ
            or key in resolved
            or any(known.startswith(f"{key}.") for known in resolved)
        ):
            continue
        yield _refusal(f"{part.where}.{key}", then["weights"].get(key), now["weights"].get(key))


_WAY_OUT = "train again"
ISOLATION = "backbone.reference_attention"
_WAYS_OUT = {ISOLATION: "teach them by loss: isolation (experiments/squeeze/isolate.yaml)"}


def _refusal(key: str, then: Any, now: Any) -> str:
    was, has = json.dumps(then), json.dumps(now)
    return (
        f"trained with {key}: {was}; the experiment says {has}, under which these weights mean something else: "
        f"--set {key}={was}, or {_WAYS_OUT.get(key, _WAY_OUT)}"
    )


def _stored(file: Path) -> dict[str, Any] | None:
    """What was kept beside the weights; ``None`` for those of an older version."""
    if not file.is_file():
        return None
    stored = read_json(file)
    if stored.get("format") != FORMAT or not isinstance(stored.get("parts"), dict):
        raise CheckpointError(
            f"{file}: got format {stored.get('format')!r}; expected {FORMAT}: pip install -U subjectgen"
        )
    return stored


def _load_part(path: Path, module: nn.Module) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; expected the trained weights of {path.stem}")
    try:
        state = load_file(path)
        with safe_open(path, framework="pt") as file:
            trained = json.loads((file.metadata() or {}).get("defining", "{}"))
    except Exception as error:  # safetensors raises its own errors and OSError for truncated files
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    for option, value in trained.items():  # files of versions before 0.2
        own = getattr(module, "defining", {})
        if option in own and own[option] != value:
            raise CheckpointError(f"{path}: trained with {option}: {value}; the experiment says {own[option]}")
    _check_shapes(path, state, module.state_dict())
    module.load_state_dict({key: value.to(module.state_dict()[key].dtype) for key, value in state.items()})


def _check_shapes(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for key in own.keys() | state.keys():
        if key not in own or key not in state or own[key].shape != state[key].shape:
            expected = tuple(own[key].shape) if key in own else "nothing"
            found = tuple(state[key].shape) if key in state else "nothing"
            raise CheckpointError(
                f"{path}: {key}: got {found}; expected {expected}: it was trained with another {path.stem}"
            )
