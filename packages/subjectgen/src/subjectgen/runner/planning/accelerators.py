"""Named accelerators: memory, dense bf16 peak and bandwidth, as their makers state them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from subjectgen.core import InputError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One card. The peak is dense bf16 with float32 sums; sheets that print twice as much count sparsity."""

    name: str
    memory: int
    """GB as in its name."""
    teraflops: float
    """Peak, 1e12 operations per second."""
    bandwidth: float
    """1e12 bytes per second."""
    source: str

    def seconds(self, flops: float, weight_bytes: float, utilisation: float) -> float:
        """Time of a pass: computing at a share of the peak, or reading the weights once, whichever is longer."""
        return max(flops / (self.teraflops * 1e12 * utilisation), weight_bytes / (self.bandwidth * 1e12))


ACCELERATORS = (
    Accelerator(name="B200", memory=180, teraflops=2250, bandwidth=8.0, source="NVIDIA HGX B200 datasheet, per GPU"),
    Accelerator(name="H200", memory=141, teraflops=989, bandwidth=4.8, source="NVIDIA H200 datasheet, SXM"),
    Accelerator(name="H100", memory=80, teraflops=989, bandwidth=3.35, source="NVIDIA H100 datasheet, SXM"),
    Accelerator(name="H100-PCIe", memory=80, teraflops=756, bandwidth=2.0, source="NVIDIA H100 datasheet, PCIe"),
    Accelerator(name="A100-80", memory=80, teraflops=312, bandwidth=2.039, source="NVIDIA A100 datasheet, SXM 80 GB"),
    Accelerator(name="L40S", memory=48, teraflops=362, bandwidth=0.864, source="NVIDIA L40S datasheet"),
    Accelerator(name="A6000", memory=48, teraflops=154.8, bandwidth=0.768, source="NVIDIA GA102 whitepaper, RTX A6000"),
    Accelerator(name="RTX-4090", memory=24, teraflops=165.2, bandwidth=1.008, source="NVIDIA Ada whitepaper, table 2"),
    Accelerator(name="RTX-3090", memory=24, teraflops=71, bandwidth=0.936, source="NVIDIA GA102 whitepaper, RTX 3090"),
)


def chosen_accelerators(names: Sequence[str]) -> tuple[Accelerator, ...]:
    """Those with these names, in any case and with spaces or dashes; all where none is named.

    Raises:
        InputError: An unknown name; says which are known.
    """
    known = {_plain(one.name): one for one in ACCELERATORS}
    for name in names:
        if _plain(name) not in known:
            listed = ", ".join(one.name for one in ACCELERATORS)
            hint = nearest(name.upper(), [one.name for one in ACCELERATORS])
            raise InputError(f"--accelerator: got {name!r}{hint} (known: {listed})")
    return tuple(known[_plain(name)] for name in names) or ACCELERATORS


def _plain(name: str) -> str:
    return name.lower().replace(" ", "-").replace("_", "-")
