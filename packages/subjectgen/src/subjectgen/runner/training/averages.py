"""Exponential moving averages of what is trained (EMA)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from subjectgen.runner.training.engine import cut_like


class Averages:
    """An average of every trained parameter, in float32 or the parameter's own precision if that is finer."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start from the parameters as they are."""
        self._parameters, self._decay = parameters, decay
        self.steps = 0
        self.values: dict[str, Tensor] = {
            name: value.detach().clone().to(torch.promote_types(value.dtype, torch.float32))
            for name, value in parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in one step. The decay rises with the steps, min(decay, (1 + n) / (10 + n)), so that the start counts
        little.
        """
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, parameter in self._parameters.items():
            self.values[name].lerp_(parameter.detach().to(self.values[name].dtype), 1 - decay)

    def restore(self, values: Mapping[str, Tensor], steps: int) -> None:
        """Go on from averages that were kept."""
        self.steps = steps
        self.values = {name: cut_like(values[name], own) for name, own in self.values.items()}
