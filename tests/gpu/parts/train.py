"""A training step of both branches through the runner's own ``Trainer``: time, utilisation, memory, largest batch.

A step is everything between two batches: encoders and the references' latents (targets are cached), the aggregator,
the backbone forward and backward, clipping and AdamW. Branches always speak and nothing is dropped, so that every
sample has the tokens of the second stage.
"""

from __future__ import annotations

import traceback
from typing import Any

import torch

from parts.build import experiment, release
from parts.machine import collect, memory_used, once, summary, timed
from parts.profiling import profiled, write_text
from parts.session import Session, best, target
from parts.training_step import Ready, attempt, changes, made_ready
from subjectgen.core import ConfigError, InputError
from subjectgen.runner.planning.estimate import Question, estimate

HARDWARE, MODEL = 0.55, 0.45
"""Utilisation that is wanted: hardware's where every block is computed again, the model's elsewhere."""
CHECKPOINTING = {"true": "every block recomputed", "selective": "selective", "false": "nothing recomputed"}
FILLED = 0.97
"""Share of the card's memory up to which the largest batch is looked for."""


def run(session: Session) -> dict[str, Any]:
    """Steps for each way of checkpointing and each batch, then the largest batch."""
    release(session)
    collect(session.device)
    counted = expected(session)
    left_out: list[str] = []
    rows: list[dict[str, Any]] = []
    largest: list[dict[str, Any]] = []
    for checkpointing in session.checkpointing:
        name = CHECKPOINTING.get(checkpointing, checkpointing)
        if not session.in_time(name, left_out):
            continue
        try:
            found, most = one_way(session, checkpointing, counted, left_out)
        except (ConfigError, RuntimeError) as error:  # no such option, or it does not go with the others
            traceback.print_exc()
            left_out.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            continue
        finally:
            collect(session.device)
        rows += found
        largest += most
    if not rows:
        raise InputError(f"nothing was measured: {'; '.join(left_out)}")
    return {
        "settings": settings(session, counted),
        "results": {"steps": rows, "largest_batch": largest, "left_out": left_out},
        "targets": targets(rows),
    }


def one_way(
    session: Session, checkpointing: str, counted: dict[str, Any], left_out: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and the largest batch of one way of checkpointing; nothing of it stays on the device."""
    name = CHECKPOINTING.get(checkpointing, checkpointing)
    with made_ready(session, checkpointing) as ready:
        rows = sweep(session, ready, checkpointing, counted, left_out)
        if not rows or not session.in_time(f"{name}, largest batch", left_out):
            return rows, []
        return rows, [largest_batch(session, ready, rows, name)]


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best batch of each way."""

    def of(name: str, key: str) -> float | None:
        return best(row[key] for row in rows if row["checkpointing"] == name)

    names = [name for key, name in CHECKPOINTING.items() if key != "true"]
    full = CHECKPOINTING["true"]
    return [
        target(f"hardware utilisation, {full}, best batch", HARDWARE, of(full, "hardware_utilisation")),
        target("model utilisation, selective or none", MODEL, best(of(name, "model_utilisation") for name in names)),
    ]


def expected(session: Session) -> dict[str, Any]:
    """What ``subjectgen plan`` says of the same step: operations per sample, and batches that fit."""
    sizes = session.sizes
    wish = Question(prompt_tokens=sizes.prompt, reference_size=sizes.reference)
    plan = estimate(experiment(session, changes(session, "true")), wish)
    (phase,) = plan["training"]["phases"]
    largest = {
        row["options"] or "every block recomputed": row["micro_batch"][141] for row in plan["memory"]["training"]
    }
    return {**phase, "largest_batch": largest}


def settings(session: Session, counted: dict[str, Any]) -> dict[str, Any]:
    """What every row shares."""
    made = experiment(session, changes(session, "true")).settings
    return {
        "experiment": session.sizes.experiment,
        "pixels": f"{session.sizes.images[0]}, one reference of {session.sizes.reference}",
        "lora": made.backbone.get("lora"),
        "trainable": counted["trainable"],
        "precision": f"{made.backbone.get('dtype', 'float32')} weights, autocast {made.training.mixed_precision}",
        "optimizer": "AdamW, float32 moments of float32 parameters",
        "targets": "latents cached; references are encoded in every step",
        "attention": session.attention,
        "compile": "torch.compile of the repeated blocks, default mode" if session.compiled else "not compiled",
        "useful TFLOP per sample": round(counted["useful_flops_per_sample"] / 1e12, 4),
        "run TFLOP per sample": {way: round(each / 1e12, 4) for way, each in counted["flops_per_sample"].items()},
        "largest batch of 141 GB that plan expects": counted["largest_batch"],
    }


def sweep(
    session: Session, ready: Ready, checkpointing: str, counted: dict[str, Any], left_out: list[str]
) -> list[dict[str, Any]]:
    """Growing batches, until one does not fit."""
    name = CHECKPOINTING.get(checkpointing, checkpointing)
    rows: list[dict[str, Any]] = []
    for batch in session.sizes.batches:
        if not session.in_time(f"{name}, batch {batch}", left_out):
            continue
        measured = attempt(session, ready, lambda batch=batch: timings(session, ready, batch))
        if measured is None:
            left_out.append(f"{name}, batch {batch}: out of memory")
            break
        rows.append(row(session, checkpointing, batch, counted, *measured))
    if rows and session.on_gpu:
        text, _ = profiled(ready.step(rows[-1]["batch"]), session.device)
        kind = name.replace(" ", "_")
        write_text(session.file(f"train_{kind}.txt"), f"{name}, batch {rows[-1]['batch']}\n\n{text}")
    return rows


def timings(session: Session, ready: Ready, batch: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """Of steps, of the encoders in them, and the most memory."""
    with memory_used(session.device) as used:
        warm = [once(ready.step(batch), session.device) for _ in range(2)]
        again = max(min(session.sizes.repeats, int(30e3 / warm[-1])), 1)  # about half a minute
        taken = summary(timed(ready.step(batch), session.device, repeats=again, warm=0))
    return taken, summary(timed(ready.encoding(batch), session.device, repeats=2)), used


def row(
    session: Session,
    checkpointing: str,
    batch: int,
    counted: dict[str, Any],
    taken: dict[str, Any],
    encoding: dict[str, Any],
    used: dict[str, int],
) -> dict[str, Any]:
    """One line of the table: useful operations, and those that are run, over the time of the whole step."""
    name, run = CHECKPOINTING.get(checkpointing, checkpointing), counted["flops_per_sample"].get(checkpointing)
    useful = session.share(batch * counted["useful_flops_per_sample"], taken["ms"])
    hardware = None if run is None else session.share(batch * run, taken["ms"])["share_of_peak"]
    return {
        "checkpointing": name,
        "batch": batch,
        **taken,
        "samples_per_second": round(1e3 * batch / taken["ms"], 4),
        "useful_teraflops_per_second": useful["teraflops_per_second"],
        "model_utilisation": useful["share_of_peak"],
        "hardware_utilisation": hardware,
        "encoders_ms": encoding["ms"],
        **used,
    }


def largest_batch(session: Session, ready: Ready, rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Expected from what two batches needed, then tried: more while it fits, less while it does not."""
    if not session.on_gpu or not session.sizes.fill or len(rows) < 2:
        return {"checkpointing": name, "largest": None, "reason": "needs a GPU, full size and two batches that fit"}
    first, last = rows[0], rows[-1]
    each = (last["allocated_bytes"] - first["allocated_bytes"]) / (last["batch"] - first["batch"])
    card = torch.cuda.get_device_properties(session.device).total_memory
    batch = max(last["batch"], int(last["batch"] + (FILLED * card - last["allocated_bytes"]) / max(each, 1)))
    fits, fails = last["batch"], None
    while session.spent() < session.seconds and batch > fits:
        if attempt(session, ready, ready.step(batch)) is not None:
            fits = batch
            batch = batch + 1 if fails is None or batch + 1 < fails else fits
        else:
            fails = batch
            batch = max(fits, batch - max(1, batch // 32))
    return {"checkpointing": name, "largest": fits, "fails": fails, "bytes_per_sample": int(each), "card_bytes": card}
