"""Muon for the matrices inside blocks, AdamW for the rest, and a rate that warms up and falls within a time budget."""

from __future__ import annotations

import torch
from torch import nn

BLOCKS = ("transformer_blocks.", ".layers.", ".layer.", ".blocks.")
"""How the model classes name their repeated blocks."""


class TimedOptimizer:
    """Two optimizers stepped as one, their learning rates set by the share of the time that is used."""

    def __init__(self, model: nn.Module, *, muon_rate: float = 2e-3, rate: float = 1e-3, warmup: int = 200) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            inside = any(block in name for block in BLOCKS) and parameter.ndim == 2
            (matrices if inside else others).append(parameter)
        muon = torch.optim.Muon(matrices, lr=muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
        self._model = model
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (muon, adamw)
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self._warmup = warmup

    def step(self, number: int, progress: float) -> None:
        """Step and clear gradients; ``progress`` is the used share of the time, the rate falls in its second half."""
        factor = min(1.0, (number + 1) / self._warmup) * min(1.0, max(0.01, (1 - progress) / 0.5))
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()


def moving_average(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """Exponential moving average of the weights."""
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call,unused-ignore]
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)
