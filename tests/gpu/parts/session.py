"""What all parts share: the options of a run, its sizes, its time budget, and what a part may say."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is."""

    experiment: str
    """YAML below the repository's root; its checkpoints give sizes, never weights."""
    prompt: int
    """Words of the prompt, one token each."""
    image_tokens: int
    """Context tokens of a reference, where random tokens stand for the multimodal LLM."""
    reference: int
    """Pixels along a side."""
    images: tuple[int, ...]
    """Pixels along a side, one value per image size."""
    steps: int
    repeats: int
    matrix: int
    """Side of the square product that gives the peak."""
    copied: int
    """Bytes of the copy that gives the bandwidth."""
    batches: tuple[int, ...]
    """Of the training step."""
    memory_limit: float
    """Bytes of the small card."""
    fill: bool
    """Whether to look for the largest batch."""


FULL = Sizes(
    experiment="experiments/squeeze/full.yaml",
    prompt=128,
    image_tokens=256,
    reference=512,
    images=(512, 1024),
    steps=25,
    repeats=5,
    matrix=8192,
    copied=4 << 30,
    batches=(1, 4, 16),
    memory_limit=24e9,
    fill=True,
)
SMALL = Sizes(
    experiment="experiments/toybox/demo.yaml",
    prompt=8,
    image_tokens=16,
    reference=64,
    images=(64, 128),
    steps=5,
    repeats=1,
    matrix=256,
    copied=1 << 20,
    batches=(1, 2),
    memory_limit=1e9,
    fill=False,
)
SIZES = {"full": FULL, "small": SMALL}


@dataclass(kw_only=True)
class Session:
    """One run of the parts."""

    out: Path
    sizes: Sizes
    label: str = ""
    """Put behind the names of files, so that one part can be run several times with other options."""
    device: torch.device
    seconds: float
    """Budget of each part; rows that would begin later are left out, and listed."""
    seed: int = 0
    changes: tuple[str, ...] = ()
    """Changes of the experiment, as ``--set`` gives them."""
    compiled: bool = False
    attention: str = "native"
    """Attention backend of diffusers."""
    checkpointing: tuple[str, ...] = ("true", "selective", "false")
    """Values of the backbone's ``gradient_checkpointing``, in the part ``train``."""
    peak: dict[str, Any] = field(default_factory=dict)
    """Measured before the first part."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What several parts use, such as a built system."""
    begun: float = field(default_factory=time.monotonic)

    @property
    def on_gpu(self) -> bool:
        """Whether times and memory mean something."""
        return self.device.type == "cuda"

    def file(self, name: str) -> Path:
        """Where a file of this run goes: ``name`` with the label before its suffix."""
        plain = self.out / name
        return plain.with_stem(f"{plain.stem}-{self.label}") if self.label else plain

    def begin(self) -> None:
        """A part begins, and with it its budget."""
        self.begun = time.monotonic()

    def spent(self) -> float:
        """Seconds since the part began."""
        return time.monotonic() - self.begun

    def in_time(self, row: str, left_out: list[str]) -> bool:
        """Whether another row may begin; if not, it is noted."""
        if self.spent() < self.seconds:
            return True
        left_out.append(f"{row}: not run, the part's {self.seconds:g} s were spent")
        return False

    def share(self, flops: float, milliseconds: float) -> dict[str, float]:
        """Rate, and its share of the measured peak."""
        rate = flops / milliseconds / 1e9
        return {"teraflops_per_second": round(rate, 4), "share_of_peak": round(rate / self.peak["teraflops"], 4)}


def target(claim: str, wanted: float, found: float | None, *, most: bool = False) -> dict[str, Any]:
    """One line of the table of targets; ``most``: the value wanted is an upper bound."""
    reached = None if found is None else bool(found <= wanted if most else found >= wanted)
    return {
        "claim": claim,
        "target": wanted,
        "measured": None if found is None else round(found, 4),
        "reached": reached,
    }


def best(values: Iterable[float | None]) -> float | None:
    """The largest; ``None`` if there is none."""
    return max((value for value in values if value is not None), default=None)
