"""FLUX's modulated norms, which take either the conditions' embedding or modulation that is ready.

They are diffusers' own classes with the same layers under the same names: checkpoints, adapters and quantized layers do
not see a difference. With an embedding they run diffusers' code.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from torch import Tensor, nn

BlockModulation: TypeAlias = tuple[Tensor, ...]
"""What one block's modulated norms get, each (b, a multiple of the block's width), in the order of the norms."""
MODULATED = (AdaLayerNormZero, AdaLayerNormZeroSingle, AdaLayerNormContinuous)


class ReadyModulation(nn.Module):
    """A modulated norm that knows which part of its block's modulation is its own."""

    part: int
    norm: nn.Module


class ReadyZero(AdaLayerNormZero, ReadyModulation):  # type: ignore[misc,unused-ignore]
    """Norm of a double block, of image or of context tokens."""

    def forward(self, x: Tensor, emb: Tensor | BlockModulation) -> tuple[Tensor, ...]:
        """The normalized and modulated tokens, the gate of attention, and shift, scale and gate of what follows."""
        if isinstance(emb, Tensor):
            found: tuple[Tensor, ...] = super().forward(x, emb=emb)
            return found
        shift, scale, *others = emb[self.part].chunk(6, dim=1)
        gate, shift_mlp, scale_mlp, gate_mlp = others
        modulated: Tensor = self.norm(x) * (1 + scale[:, None]) + shift[:, None]
        return modulated, gate, shift_mlp, scale_mlp, gate_mlp


class ReadyZeroSingle(AdaLayerNormZeroSingle, ReadyModulation):  # type: ignore[misc,unused-ignore]
    """Norm of a single block."""

    def forward(self, x: Tensor, emb: Tensor | BlockModulation) -> tuple[Tensor, Tensor]:
        """The normalized and modulated tokens, and the gate."""
        if isinstance(emb, Tensor):
            found: tuple[Tensor, Tensor] = super().forward(x, emb=emb)
            return found
        shift, scale, gate = emb[self.part].chunk(3, dim=1)
        modulated: Tensor = self.norm(x) * (1 + scale[:, None]) + shift[:, None]
        return modulated, gate


class ReadyContinuous(AdaLayerNormContinuous, ReadyModulation):  # type: ignore[misc,unused-ignore]
    """Norm before the output layer."""

    def forward(self, x: Tensor, emb: Tensor | BlockModulation) -> Tensor:
        """The normalized and modulated tokens."""
        if isinstance(emb, Tensor):
            found: Tensor = super().forward(x, emb)
            return found
        scale, shift = emb[self.part].chunk(2, dim=1)
        modulated: Tensor = self.norm(x) * (1 + scale)[:, None, :] + shift[:, None, :]
        return modulated


READY: dict[type[nn.Module], type[ReadyModulation]] = {
    AdaLayerNormZero: ReadyZero,
    AdaLayerNormZeroSingle: ReadyZeroSingle,
    AdaLayerNormContinuous: ReadyContinuous,
}


def take_ready_modulation(blocks: Any) -> None:
    """Let every modulated norm of these blocks be one of ours; layers, names and values stay."""
    for block in blocks:
        for part, norm in enumerate([module for module in block.modules() if type(module) in READY]):
            norm.__class__ = READY[type(norm)]
            norm.part = part
