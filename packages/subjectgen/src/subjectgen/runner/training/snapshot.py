"""What a run needs to go on exactly where it was, copied from the devices at one step, and its folder.

A checkpoint's folder holds ``trained/`` (as a finished run does), ``optimizer.safetensors``, ``average.safetensors``
where there is an average, ``teacher.safetensors`` where a phase has one, ``state.json`` and checksums. Whatever the
engine, tensors are whole: any number of processes may go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from subjectgen.core import CheckpointError
from subjectgen.core.files import atomic_folder
from subjectgen.core.json_files import read_json, write_json
from subjectgen.core.weights import verify, write_checksums
from subjectgen.runner.system.system import System
from subjectgen.runner.system.trained import FOLDER, check_finite, save_trained
from subjectgen.runner.training.averages import Averages
from subjectgen.runner.training.engine import cut_like, whole

STATE, OPTIMIZER, AVERAGE = "state.json", "optimizer.safetensors", "average.safetensors"
TEACHER = "teacher.safetensors"
FORMAT = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A step of a run, on the CPU, independent of what the run does next."""

    record: Mapping[str, Any]
    """Position, and everything else that is not a tensor."""
    values: Mapping[str, Tensor]
    """What is saved of the system, by name."""
    optimizer: Mapping[str, Tensor]
    """Its tensors, as ``name/what``."""
    average: Mapping[str, Tensor] | None
    teacher: Mapping[str, Tensor] | None = None
    """What a phase learns from, where that is not the data."""


def take(
    values: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    optimizer: Any,
    average: Averages | None,
    record: Mapping[str, Any],
    *,
    teacher: Mapping[str, Tensor] | None = None,
) -> Snapshot:
    """Copy everything but the teacher, which never changes; all processes must ask, and each gets the whole.

    Args:
        values: What is saved of the system.
        parameters: Those that training changes.
        optimizer: Of some of them.
        average: Where there is one.
        record: What is no tensor.
        teacher: Where the phase has one.

    Raises:
        CheckpointError: A value that is not finite; names the parameter.
    """
    copies = _copied(values)
    check_finite(copies)
    return Snapshot(
        record=record,
        values=copies,
        optimizer=_copied(optimizer_state(parameters, optimizer)),
        average=None if average is None else _copied(average.values),
        teacher=teacher,
    )


def optimizer_state(parameters: Mapping[str, nn.Parameter], optimizer: Any) -> dict[str, Tensor]:
    """The optimizer's tensors by parameter; one that made no step has none."""
    found = {}
    for name, parameter in parameters.items():
        for what, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}/{what}"] = torch.as_tensor(value)
    return found


def restore_optimizer(parameters: Mapping[str, nn.Parameter], optimizer: Any, state: Mapping[str, Tensor]) -> None:
    """Put tensors back where :func:`optimizer_state` found them, cut as the engine cuts."""
    for key, value in state.items():
        name, _, what = key.rpartition("/")
        parameter = parameters[name]
        # Torch's optimizers count steps on the CPU, in one number.
        optimizer.state[parameter][what] = value.clone() if what == "step" else cut_like(value, parameter)


def write(snapshot: Snapshot, system: System, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write a checkpoint's folder, which appears whole or not at all."""
    with atomic_folder(folder) as unfinished:
        step = snapshot.record["step"]
        save_trained(system, unfinished / FOLDER, {**facts, "step": step}, snapshot.values)
        save_file(dict(snapshot.optimizer), unfinished / OPTIMIZER)
        if snapshot.average is not None:
            save_file(dict(snapshot.average), unfinished / AVERAGE)
        if snapshot.teacher is not None:
            save_file({name: value.cpu() for name, value in snapshot.teacher.items()}, unfinished / TEACHER)
        write_json(unfinished / STATE, {"format": FORMAT, **snapshot.record})
        write_checksums(unfinished)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A checkpoint's folder that was found whole."""

    folder: Path
    record: Mapping[str, Any]

    def optimizer(self) -> dict[str, Tensor]:
        """Tensors of the optimizer."""
        return _read(self.folder / OPTIMIZER)

    def teacher(self) -> dict[str, Tensor] | None:
        """What the phase learns from, where that is not the data."""
        return _read(self.folder / TEACHER) if (self.folder / TEACHER).is_file() else None

    def average(self) -> dict[str, Tensor] | None:
        """Tensors of the average."""
        return _read(self.folder / AVERAGE) if (self.folder / AVERAGE).is_file() else None


def read(folder: Path) -> Kept:
    """Look at a checkpoint, every byte of it.

    Raises:
        CheckpointError: Something is missing or changed; names it.
    """
    if not (folder / STATE).is_file():
        raise CheckpointError(f"{folder / STATE}: missing; expected the state of a checkpoint")
    verify(folder)
    record = read_json(folder / STATE)
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{folder / STATE}: got format {record.get('format')!r}; expected {FORMAT}")
    return Kept(folder=folder, record=record)


def newest(folders: Sequence[Path]) -> tuple[Kept | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with those after it."""
    problems: list[str] = []
    for folder in reversed(folders):
        try:
            return read(folder), problems
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  # no mapping
    except Exception as error:  # safetensors has errors of its own
        raise CheckpointError(f"{file}: cannot be read: {error}") from error


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, made in one go; from a device into pinned memory."""
    found = {}
    for name, value in tensors.items():
        complete = whole(value)
        copy = torch.empty(complete.shape, dtype=complete.dtype, pin_memory=complete.is_cuda)
        found[name] = copy.copy_(complete, non_blocking=complete.is_cuda)
    if any(value.is_cuda for value in tensors.values()):
        torch.cuda.synchronize()
    return found
