"""Muon for convolutions and matrices in single precision, for processors without fast bfloat16.

Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024. torch's own takes matrices alone
and computes in bfloat16, which costs a processor that emulates it half as much as the whole training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic step that drives all singular values towards 1."""
STEPS = 5
BLOCKS = ("transformer_blocks.", ".layers.", ".layer.", ".blocks.")
"""How the model classes name their repeated blocks."""
LEAST_WIDTH = 16
"""Narrower convolutions, such as those from and to colours, are no hidden layers."""


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest orthogonal matrix; its size is AdamW's typical one, so that rates are alike."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; a closure is not supported."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    mean = state.setdefault("momentum", torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 1 - group["momentum"])
                    update = orthogonal(parameter.grad.lerp(mean, group["momentum"]).flatten(1))
                    size = 0.2 * max(update.shape) ** 0.5
                    parameter.add_(update.view_as(parameter), alpha=-size * group["lr"])


def orthogonal(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Nearly the nearest matrix with orthonormal rows or columns, by Newton and Schulz."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide is matrix else x.T


def hidden_layers(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters for Muon, and all others."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        hidden = parameter.ndim in (2, 4) and min(parameter.shape[:2]) >= LEAST_WIDTH
        (matrices if hidden else others).append(parameter)
    return matrices, others


def block_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Of a transformer: matrices inside its blocks for Muon, and all others."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = any(block in name for block in BLOCKS) and parameter.ndim == 2
        (matrices if inside else others).append(parameter)
    return matrices, others
