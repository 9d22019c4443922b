"""Where the time of one step goes: the profiler's table, kept as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from parts.build import denoiser
from parts.counting import pass_flops, shown, tokens_of
from parts.denoise import steps
from parts.machine import Run
from parts.session import Session
from subjectgen.core.files import atomic_write

ROWS, LARGEST = 25, 8
"""Rows of the text, and of the JSON file."""


def run(session: Session) -> dict[str, Any]:
    """Kernels of one compiled step of the middle stage, at every image size."""
    made, left_out, texts, tables = denoiser(session), [], [], []
    for step in steps(session, made):
        if not step.name.endswith("middle") or not session.in_time(step.name, left_out):
            continue
        tokens = tokens_of(step.streams)
        flops = pass_flops(made.backbone.transformer.config, tokens)
        with torch.no_grad():
            text, rows = profiled(step.once(), session.device)
        texts.append(f"{step.name}, tokens {shown(tokens)}, {flops / 1e12:.3g} TFLOP\n\n{text}")
        tables += [{"step": step.name, **row} for row in rows[:LARGEST]]
    write_text(session.file("profile.txt"), "\n\n".join(texts))
    return {
        "settings": {
            "attention": session.attention,
            "compile": "torch.compile of the repeated blocks, default mode" if session.compiled else "not compiled",
            "table": session.file("profile.txt").name,
        },
        "results": {"kernels": tables, "left_out": left_out},
        "targets": [],
    }


def profiled(run: Run, device: torch.device) -> tuple[str, list[dict[str, Any]]]:
    """The profiler's table of one call, and its first rows: name, calls, milliseconds and share of their sum."""
    for _ in range(3):
        run()
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    averages = found.key_averages()
    # On a GPU an operator has its kernels' time too; each kernel is counted once, under its own name.
    kernels = [one for one in averages if not on_gpu or str(one.device_type).endswith("CUDA")]
    kernels.sort(key=lambda one: -getattr(one, key))
    total = sum(getattr(one, key) for one in kernels) or 1
    rows = [
        {
            "kernel": one.key[:80],
            "calls": one.count,
            "milliseconds": round(getattr(one, key) / 1e3, 4),
            "share": round(getattr(one, key) / total, 4),
        }
        for one in kernels[:ROWS]
    ]
    return averages.table(sort_by=key, row_limit=ROWS, max_name_column_width=80), rows


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")
