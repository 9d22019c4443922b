"""The machine: what it is, what it can do at most, and how time and memory are taken on it."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from parts.session import ROOT

Run = Callable[[], object]
PACKAGES = ("torch", "triton", "transformers", "diffusers", "peft", "accelerate", "torchao", "bitsandbytes")


def facts(device: torch.device) -> dict[str, Any]:
    """Names and versions."""
    found: dict[str, Any] = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: known for name in PACKAGES if (known := _version(name))},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        }
    return found


def commit() -> str | None:
    """The repository's commit, with a plus where it has changes."""
    known = _said("git", "rev-parse", "HEAD")
    return known and known + ("+" if _said("git", "status", "--porcelain") else "")


def ceilings(device: torch.device, matrix: int, copied: int) -> dict[str, Any]:
    """bf16 matrix product on random numbers, and copy bandwidth, bytes read and written."""
    dtype = torch.bfloat16
    a, b = (torch.randn(matrix, matrix, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    product = timed(lambda: torch.mm(a, b, out=out), device, repeats=20, warm=30)  # clocks rise from idle meanwhile
    source = torch.randint(0, 255, (copied,), device=device, dtype=torch.uint8)
    goal = torch.empty_like(source)
    copy = timed(lambda: goal.copy_(source), device, repeats=10, warm=3)
    return {
        "product": f"{matrix}^3 bfloat16, random numbers",
        "product_ms": summary(product),
        "teraflops": 2 * matrix**3 / statistics.median(product) / 1e9,
        "copy": f"{copied / 1e9:.2f} GB, bytes read and written counted",
        "copy_ms": summary(copy),
        "terabytes_per_second": 2 * copied / statistics.median(copy) / 1e9,
    }


# ----------------------------------------------------------------------------------------------------------- time


def timed(run: Run, device: torch.device, *, repeats: int, warm: int = 1) -> list[float]:
    """Milliseconds of each call, after some to warm up."""
    for _ in range(warm):
        run()
    return [once(run, device) for _ in range(repeats)]


def once(run: Run, device: torch.device) -> float:
    """Milliseconds of one call, by the device's own clock."""
    if device.type != "cuda":
        begin = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - begin)
    torch.cuda.synchronize(device)
    begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin_event.record()
    run()
    end_event.record()
    torch.cuda.synchronize(device)
    return begin_event.elapsed_time(end_event)


def interleaved(
    rows: Mapping[str, Run], device: torch.device, *, repeats: int, more: Callable[[], bool]
) -> dict[str, list[float]]:
    """Milliseconds of rows that take turns, in an order that turns round every time, while there is time for ``more``.

    At least one round is run. Rows are warm already.
    """
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(repeats):
        if number and not more():
            break
        for name in list(rows)[:: -1 if number % 2 else 1]:
            taken[name].append(once(rows[name], device))
    return taken


def summary(milliseconds: list[float]) -> dict[str, Any]:
    """Median, least, and how many."""
    return {
        "ms": round(statistics.median(milliseconds), 4),
        "min_ms": round(min(milliseconds), 4),
        "repeats": len(milliseconds),
    }


# --------------------------------------------------------------------------------------------------------- memory


@contextmanager
def memory_used(device: torch.device) -> Iterator[dict[str, int]]:
    """Most bytes in tensors, and most bytes that the allocator held, filled in at the end; nothing on a CPU."""
    found: dict[str, int] = {}
    if device.type != "cuda":
        yield found
        return
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        yield found
    finally:
        torch.cuda.synchronize(device)
        found["allocated_bytes"] = torch.cuda.max_memory_allocated(device)
        found["reserved_bytes"] = torch.cuda.max_memory_reserved(device)


def collect(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, cwd=ROOT)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
