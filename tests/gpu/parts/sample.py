"""Whole images: dropping silent branches, negatives without references and the references' cache, side by side.

All rows share the transformer, its kernels and the starting noise, and take turns. Encoders and decoder are not in it:
they run once per image (part ``encode``).
"""

from __future__ import annotations

import statistics
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from parts.build import denoiser, isolated
from parts.counting import image_flops, stages_of, steps_of
from parts.denoise import noise, planned
from parts.machine import Run, interleaved, memory_used, summary
from parts.session import Session, target
from parts.stand_ins import request
from subjectgen.runner.generation.batches import denoise
from subjectgen.runner.generation.denoising import Denoising
from subjectgen.runner.system.system import System

BASE = {"1": "always on", "2": "always on, negative same"}
"""What rows of one pass, and of two, are compared with."""
TARGETS = {
    ("dropped", 0): 1.2,
    ("dropped", 1): 1.08,
    ("dropped, negative no_references", 0): 1.5,
    ("dropped, negative no_references", 1): 1.2,
    ("dropped, negative no_references, K/V cache", 0): 1.8,
    ("dropped, negative no_references, K/V cache", 1): 1.25,
}
"""Speed-up that is wanted, by row and number of the image size."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to sample."""

    schedule: str
    negative: str | None = None
    """``None``: one pass."""
    cached: bool = False

    @property
    def base(self) -> str:
        """The row that it is compared with."""
        return BASE["1" if self.negative is None else "2"]


ROWS = {
    "always on": Row(schedule="always_on"),
    "dropped": Row(schedule="three_stage"),
    "always on, negative same": Row(schedule="always_on", negative="same"),
    "dropped, negative no_references": Row(schedule="three_stage", negative="no_references"),
    "dropped, negative no_references, K/V cache": Row(schedule="three_stage", negative="no_references", cached=True),
    "dropped, K/V cache": Row(schedule="three_stage", cached=True),
    "dropped, negative same": Row(schedule="three_stage", negative="same"),
    "dropped, negative empty": Row(schedule="three_stage", negative="empty"),
}
"""By name, in the order in which they are warmed up: those with targets first."""


def run(session: Session) -> dict[str, Any]:
    """Milliseconds of an image and ratios, for every image size."""
    made, left_out, tables, targets = denoiser(session), [], [], []
    for number, pixels in enumerate(session.sizes.images):
        found = image_rows(session, made, pixels, left_out)
        tables += found
        targets += wanted(found, number)
    return {
        "settings": {
            "steps": session.sizes.steps,
            "grid": made.experiment.settings.schedule.get("grid"),
            "passes": "one with embedded guidance; with a negative two where they differ, true_cfg 2.5",
            "always on, negative same": "references in both passes, the prompt in the positive one",
            "lora": "merged: a model without an adapter runs the same operations",
            "attention": f"{session.attention} of diffusers, no mask",
            "compile": "torch.compile of the repeated blocks, default mode" if session.compiled else "not compiled",
            "K/V cache": "references isolated; exact only for a model trained so; its making is in the time",
        },
        "results": {"images": tables, "left_out": left_out},
        "targets": targets,
    }


def image_rows(session: Session, made: System, pixels: int, left_out: list[str]) -> list[dict[str, Any]]:
    """All rows at one image size."""
    start, sample = noise(session, made, pixels), request(session.sizes.prompt, session.sizes.reference)
    plans: dict[str, Denoising] = {}
    runs: dict[str, Run] = {}
    used: dict[str, Mapping[str, int]] = {}
    for name, row in ROWS.items():
        if not session.in_time(f"{pixels} px, {name}", left_out):
            continue
        plans[name] = planned(session, made, sample, pixels, name=row.schedule, **guidance(made, row))
        runs[name] = sampled(made, row, plans[name], start)
        try:
            with memory_used(session.device) as used[name]:
                runs[name]()  # compiles what it needs
        except RuntimeError as error:
            del runs[name]
            traceback.print_exc()
            left_out.append(f"{pixels} px, {name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    taken = interleaved(
        runs, session.device, repeats=session.sizes.repeats, more=lambda: session.spent() < session.seconds
    )
    sizes = made.backbone.transformer.config
    flops = {name: image_flops(sizes, plan, cached=ROWS[name].cached) for name, plan in plans.items()}
    rows = []
    for name, times in taken.items():
        base, middle = ROWS[name].base, summary(times)
        rows.append(
            {
                "pixels": pixels,
                "row": name,
                "backbone_calls": sum(len(step.streams) for step in steps_of(plans[name])),
                "stages": _counts(stages_of(plans[name])),
                "teraflops": flops[name] / 1e12,
                **middle,
                "images_per_second": 1e3 / middle["ms"],
                **session.share(flops[name], middle["ms"]),
                "compared_with": base,
                "counted": round(flops[base] / flops[name], 4) if base in flops else None,
                "measured": _ratio(taken, base, name),
                **used[name],
            }
        )
    return rows


def guidance(made: System, row: Row) -> dict[str, Any]:
    """Schedule settings of a row with two passes; one pass is how plans are made anyway."""
    if row.negative is None:
        return {}
    embedded = {"embedded": 1.0} if made.backbone.guidance_embedded else {}
    return {"guidance": {**embedded, "true_cfg": 2.5, "negative": row.negative}}


def sampled(made: System, row: Row, denoising: Denoising, start: torch.Tensor) -> Run:
    """From noise to latents: modulation of all steps, keys and values of references, all steps."""

    def run() -> torch.Tensor:
        with isolated(made, row.cached) if row.cached else nullcontext():
            return denoise(denoising, start)

    return run


def wanted(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Targets of one image size."""
    found = {row["row"]: row for row in rows}
    return [
        target(
            f"{rows[0]['pixels']} px: {name}, times as fast as {ROWS[name].base}",
            value,
            found[name]["measured"] if name in found else None,
        )
        for (name, place), value in TARGETS.items()
        if place == number and rows
    ]


def _ratio(taken: Mapping[str, list[float]], base: str, name: str) -> float | None:
    """Median over rounds."""
    if base not in taken:
        return None
    return round(statistics.median(one / other for one, other in zip(taken[base], taken[name], strict=True)), 4)


def _counts(stages: list[str]) -> str:
    """Steps of each stage."""
    return ", ".join(f"{stage} {stages.count(stage)}" for stage in dict.fromkeys(stages))
