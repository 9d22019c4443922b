"""What all benchmarks share: rows that take turns, counted operations, and what every table says of itself."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import diffusers
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from subjectgen.backbones.flux import FluxBackbone

Times = dict[str, list[float]]
"""Milliseconds of each row, one per round."""


def measure(rows: Mapping[str, Callable[[], object]], repeats: int, device: str) -> Times:
    """Run the rows in turns, in an order that turns round every time; the first round warms up and is thrown away.

    On a CPU the time is the process's own over its threads, which other work on the machine disturbs less.
    """
    threads = torch.get_num_threads()
    times: Times = {name: [] for name in rows}
    for number in range(repeats + 1):
        for name in list(rows)[:: 1 if number % 2 else -1]:
            start = _clock(device)
            rows[name]()
            taken = 1000 * (_clock(device) - start) / (threads if device == "cpu" else 1)
            if number:
                times[name].append(taken)
    return times


def _clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """One row's time over another's in the same round, median."""
    return statistics.median(one / other for one, other in zip(times[name], times[base], strict=True))


def attention_flops(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: object, **__: object
) -> int:
    """Two products, QK^T and PV: multiplications and additions."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (width + value[3])


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


def flops(run: Callable[[], object]) -> int:
    """Counted by torch, which knows the attention kernels of GPUs; the CPU's is told to it here."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        run()
    return int(counter.get_total_flops())


def parser(description: str | None, *, repeats: int = 7) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    made.add_argument("--repeats", type=int, default=repeats)
    made.add_argument("--seed", type=int, default=0)
    return made


def introduce(options: argparse.Namespace) -> None:
    """Print command, machine, versions and seed, and set the seed."""
    torch.manual_seed(options.seed)
    on_gpu = options.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else processor()
    libraries = f"torch {torch.__version__}, transformers {transformers.__version__}, diffusers {diffusers.__version__}"
    print(f"command  {shlex.join(['python', os.path.relpath(sys.argv[0]), *sys.argv[1:]])}")
    print(f"machine  {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print(f"versions python {platform.python_version()}, {libraries}; seed {options.seed}")


def processor() -> str:
    """Its name where the system tells it, which Linux does in a file."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def flux_slice(options: argparse.Namespace, **config: object) -> FluxBackbone:
    """A few blocks of FLUX at the width ``options`` asks for, random weights."""
    architecture = {
        "num_layers": options.double,
        "num_single_layers": options.single,
        "num_attention_heads": options.width // 128,
    }
    settings = FluxBackbone.Config.model_validate({"architecture": architecture, "dtype": options.dtype, **config})
    return FluxBackbone(settings).to(options.device).eval()
