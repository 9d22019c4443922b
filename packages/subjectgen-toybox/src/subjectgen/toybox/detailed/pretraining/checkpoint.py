"""One safetensors file that holds all of a training: weights, averages, optimizers and position; written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from subjectgen.core import CheckpointError

Part = nn.Module | torch.optim.Optimizer


def save(path: Path, parts: Mapping[str, Part], position: Mapping[str, Any]) -> None:
    """Write beside the file and rename, so that a kill at any time leaves the old one or the new one."""
    tensors = {f"{name}/{key}": value for name, part in parts.items() for key, value in _tensors(part)}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    save_file(tensors, beside, metadata={"position": json.dumps(position)})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def load(path: Path, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Read into parts of the same shape; returns the position.

    Raises:
        CheckpointError: The file has other parts; names one.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        position: dict[str, Any] = json.loads(file.metadata()["position"])
    for name, part in parts.items():
        own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        if not own:
            raise CheckpointError(f"{path}: has no part {name!r}; expected a checkpoint of the same training")
        if isinstance(part, nn.Module):
            part.load_state_dict(own)
        else:
            _load_optimizer(part, own)
    return position


def _tensors(part: Part) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, nn.Module):
        # Tied weights are stored once for each name: safetensors refuses tensors that share their storage.
        yield from ((key, value.detach().cpu().clone().contiguous()) for key, value in part.state_dict().items())
        return
    for number, state in part.state_dict()["state"].items():
        yield from ((f"{number}.{key}", torch.as_tensor(value).cpu().contiguous()) for key, value in state.items())


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
