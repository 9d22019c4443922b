"""The recipe for a 24 GB card, under the allocator's limit, beside everything on the card; with the same picture.

Encode, pool, denoise in three stages, decode: the whole system, through ``SubjectPipeline``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from parts.build import WITHOUT_ADAPTER, experiment, release, system
from parts.machine import collect, memory_used
from parts.session import Session, target
from parts.stand_ins import request
from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Request
from subjectgen.runner.planning.estimate import Question, estimate
from subjectgen.runner.system.residency import CPU
from subjectgen.runner.system.system import System

TILE = {1024: 512}
"""Side of the autoencoder's tiles, by side of the image; else the smallest that it takes."""
EVERYTHING = "{offload: none, release_modulation: false}"
RECIPE = "{offload: encoders, release_modulation: true}"


def run(session: Session) -> dict[str, Any]:
    """Both ways; the recipe's peak beside what ``subjectgen plan`` expects."""
    release(session)
    collect(session.device)
    planned = expected(session)
    rows = []
    pictures = {}
    for name, memory, limit in (
        ("everything on the card", EVERYTHING, None),
        ("24 GB recipe", RECIPE, session.sizes.memory_limit),
    ):
        row, pictures[name] = generated(session, name, memory, limit)
        rows.append(row)
        collect(session.device)
    one, other = pictures.values()
    apart = None if one is None or other is None else float((one - other).abs().mean())
    recipe = rows[1]
    return {
        "settings": {
            "image": f"{session.sizes.images[-1]} px, one reference of {session.sizes.reference} px",
            "lora": "merged: a model without an adapter runs the same operations",
            "autoencoder": f"tiles of {tile(session)} px",
            "compile": "not compiled",
            "limit": f"torch.cuda.set_per_process_memory_fraction at {session.sizes.memory_limit / 1e9:g} GB",
            "plan expects of the recipe": {key: f"{value / 1e9:.2f} GB" for key, value in planned["moments"].items()},
        },
        "results": {"ways": rows, "planned_bytes": planned["bytes"], "mean_difference_of_pictures": apart},
        "targets": [
            target(
                "most GB that the allocator held under the recipe",
                session.sizes.memory_limit / 1e9,
                recipe["reserved_bytes"] / 1e9 if "reserved_bytes" in recipe and recipe["fits"] else None,
                most=True,
            )
        ],
    }


def changes(session: Session, memory: str) -> list[str]:
    """The largest image, tiles for the autoencoder, no adapter."""
    side = session.sizes.images[-1]
    return [
        f"image={{height: {side}, width: {side}}}",
        f"memory={memory}",
        WITHOUT_ADAPTER,
        "backbone.gradient_checkpointing=false",
        "branches.vae.encoder.tiling=true",
        f"branches.vae.encoder.tile_size={tile(session)}",
        f"schedule.steps={session.sizes.steps}",
    ]


def tile(session: Session) -> int:
    """Pixels along a tile."""
    return TILE.get(session.sizes.images[-1], 64)


def expected(session: Session) -> dict[str, Any]:
    """What ``subjectgen plan`` says of the recipe: bytes, in all and by moment."""
    wish = Question(prompt_tokens=session.sizes.prompt, reference_size=session.sizes.reference)
    return estimate(experiment(session, changes(session, RECIPE)), wish)["memory"]["as_asked"]


def generated(
    session: Session, name: str, memory: str, limit: float | None
) -> tuple[dict[str, Any], torch.Tensor | None]:
    """One image: seconds of each stretch, and most memory."""
    options = experiment(session, changes(session, memory)).settings.memory
    built = system(session, changes(session, memory), memory=options)
    if limit is not None:
        as_loaded(built)
    collect(session.device)
    sample = request(session.sizes.prompt, session.sizes.reference)
    row: dict[str, Any] = {"way": name}
    with limited(session, limit), memory_used(session.device) as used:
        built.residency.settle()
        pipeline, steps, begin = SubjectPipeline(built), [], time.perf_counter()
        try:
            asked = Request.of([sample], [session.seed])
            (picture,) = pipeline.generate(asked, on_step=lambda _: steps.append(now(session))).tensors
        except torch.OutOfMemoryError as error:
            return {**row, "fits": False, "reason": " ".join(str(error).split())[:300]}, None
        end = time.perf_counter()
    seconds = {
        "until_first_step_seconds": steps[0] - begin,
        "further_steps_seconds": steps[-1] - steps[0],
        "decoding_seconds": end - steps[-1],
        "image_seconds": end - begin,
    }
    return {**row, **{key: round(value, 4) for key, value in seconds.items()}, "fits": True, **used}, picture


def now(session: Session) -> float:
    """Seconds, once the device has done what it was given."""
    if session.on_gpu:
        torch.cuda.synchronize(session.device)
    return time.perf_counter()


def as_loaded(built: System) -> None:
    """Weights in the CPU's memory, where reading a checkpoint would have put them."""
    for module in (built.backbone, *built.encoders().values(), *built.branch_modules().values()):
        module.to(CPU)


@contextmanager
def limited(session: Session, limit: float | None) -> Iterator[None]:
    """The allocator takes so many bytes and no more."""
    if limit is None or not session.on_gpu:
        yield
        return
    total = torch.cuda.get_device_properties(session.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0), session.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, session.device)
