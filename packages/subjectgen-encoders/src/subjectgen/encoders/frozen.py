"""A module that is never trained: no gradients, always in evaluation mode."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound="Frozen")


class Frozen(nn.Module):
    """Base of the encoders. Call :meth:`freeze` once the weights are there."""

    def freeze(self) -> None:
        """Switch gradients off and evaluation mode on."""
        self.requires_grad_(False)
        self.eval()

    def train(self: Module, mode: bool = True) -> Module:
        """Stay in evaluation mode: a trainer's ``model.train()`` must not switch dropout on in a frozen part."""
        return nn.Module.train(self, False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def dtype_of(model: nn.Module) -> torch.dtype:
    """Data type of a model's floating-point weights."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
