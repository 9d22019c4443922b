"""Chance as a function: every number that training draws follows from a seed and a position, never from a state."""

from __future__ import annotations

import hashlib
import json

import torch
from jaxtyping import Int
from torch import Tensor, nn


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits that follows from all parts; other parts give an unrelated one."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A generator on the CPU, so that numbers do not depend on the device, that starts from :func:`derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def permutation(count: int, *parts: int | str) -> Int[Tensor, " count"]:
    """All of 0 .. count - 1 in an order that follows from the parts."""
    return torch.randperm(count, generator=generator(*parts))


def seed_modules(module: nn.Module, *parts: int | str) -> None:
    """Seed all that modules draw from in a step: torch's global generator, and a ``generator`` of their own."""
    torch.manual_seed(derived_seed(*parts, "modules"))
    for number, one in enumerate(module.modules()):
        own = getattr(one, "generator", None)
        if isinstance(own, torch.Generator):
            own.manual_seed(derived_seed(*parts, "module", number))
