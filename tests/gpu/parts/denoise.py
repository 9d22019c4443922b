"""One denoising step of every stage, eager and compiled, with every attention backend that is here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from parts.build import denoiser, eagerly, use_attention
from parts.counting import pass_flops, shown, stages_of, steps_of, tokens_of
from parts.machine import Run, memory_used, summary, timed
from parts.session import Session, best, target
from parts.stand_ins import prompt, request
from subjectgen.core import Sample, Streams
from subjectgen.runner.generation import samplers
from subjectgen.runner.generation.denoising import Denoising, prepare
from subjectgen.runner.system.system import System

BACKENDS = ("native", "_native_cudnn", "_native_flash", "_flash_3", "_flash_3_hub")
"""Of diffusers: torch's SDPA as it chooses, its cuDNN and FlashAttention-2 kernels, FlashAttention-3."""
SDPA, FLASH_3 = 0.62, 0.70
"""Shares of the peak that are wanted, of a compiled step with torch's attention and with FlashAttention-3."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One pass of the backbone: a stage at an image size."""

    name: str
    denoising: Denoising
    number: int
    """The first step of the stage."""
    latents: torch.Tensor

    @property
    def streams(self) -> Streams:
        """What it feeds the backbone."""
        return steps_of(self.denoising)[self.number].streams[0]

    def once(self) -> Run:
        """The pass; what comes before the first step, such as the modulation of all steps, is made now."""
        ready = self.denoising.ready()
        t = torch.tensor(ready.times[self.number], device=self.latents.device)
        inputs = steps_of(ready)[self.number]
        return lambda: inputs.velocity(ready.backbone, self.latents, t)


def run(session: Session) -> dict[str, Any]:
    """Milliseconds, rate and share of the peak of each step."""
    made, left_out, rows = denoiser(session), [], []
    backends, refused = available(session, made)
    with torch.no_grad():
        for step in steps(session, made):
            if session.in_time(step.name, left_out):
                rows.append(row(session, made, step, backends, left_out))
    use_attention(made, session.attention)
    return {
        "settings": {
            "parameters": sum(p.numel() for p in made.backbone.parameters()),
            "dtype": made.experiment.settings.backbone.get("dtype", "float32"),
            "lora": "merged: a model without an adapter runs the same operations",
            "passes": "one, batch 1",
            "modulation": "looked up from the table of all steps, and not counted",
            "grid": made.experiment.settings.schedule.get("grid"),
            "compile": "torch.compile of the repeated blocks, default mode" if session.compiled else "not compiled",
        },
        "results": {"steps": rows, "backends_not_here": refused, "left_out": left_out},
        "targets": targets(rows),
    }


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each step the fastest kernel of either kind."""
    wanted = {"torch's attention": (SDPA, "native"), "FlashAttention-3": (FLASH_3, "flash_3")}
    return [
        target(
            f"{row['step']}: compiled, {kind}, share of the peak",
            share,
            best(one["share_of_peak"] for name, one in row["compiled"].items() if mark in name),
        )
        for kind, (share, mark) in wanted.items()
        for row in rows
    ]


def steps(session: Session, made: System) -> Iterator[Step]:
    """Every stage at every image size; and without references at the largest, as FLUX.1-dev is timed elsewhere."""
    sample = request(session.sizes.prompt, session.sizes.reference)
    for pixels in session.sizes.images:
        denoising = planned(session, made, sample, pixels)
        latents = noise(session, made, pixels)
        stages = stages_of(denoising)
        for stage in dict.fromkeys(stages):
            number = stages.index(stage)
            yield Step(name=f"{pixels} px, {stage}", denoising=denoising, number=number, latents=latents)
    text = planned(session, made, Sample(prompt=prompt(4 * session.sizes.prompt)), pixels, name="always_on")
    yield Step(name=f"{pixels} px, text to image", denoising=text, number=0, latents=latents)


def planned(session: Session, made: System, sample: Sample, pixels: int, **schedule: Any) -> Denoising:
    """One image in one pass through three stages; ``schedule`` changes that."""
    embedded = {"embedded": 2.5} if made.backbone.guidance_embedded else {}
    given = made.experiment.settings.schedule
    change = {key: given[key] for key in ("name", "grid") if key in given}  # another schedule starts afresh
    change |= {"steps": session.sizes.steps, "guidance": {**embedded, "true_cfg": 1.0}, **schedule}
    changed = made.with_schedule(made.experiment.changed({"schedule": change}))
    return prepare(changed, [sample], made.latent_shape(pixels, pixels)[1:])


def noise(session: Session, made: System, pixels: int) -> torch.Tensor:
    """Where sampling starts."""
    return samplers.noise([session.seed], made.latent_shape(pixels, pixels)).to(session.device)


def available(session: Session, made: System) -> tuple[list[str], dict[str, str]]:
    """Attention backends that can be chosen here, and why the others cannot."""
    wanted = BACKENDS if session.on_gpu else ("native",)
    refused = {} if session.on_gpu else dict.fromkeys(BACKENDS[1:], "needs CUDA")
    found = []
    for name in wanted:
        try:
            use_attention(made, name)
        except Exception as error:  # each library refuses in its own way
            refused[name] = " ".join(str(error).split())[:200]
        else:
            found.append(name)
    use_attention(made, session.attention)
    return found, refused


def row(session: Session, made: System, step: Step, backends: list[str], left_out: list[str]) -> dict[str, Any]:
    """All backends eagerly; compiled, torch's own choice and the fastest."""
    tokens = tokens_of(step.streams)
    flops = pass_flops(made.backbone.transformer.config, tokens)
    found: dict[str, Any] = {"step": step.name, "tokens": shown(tokens), "teraflops": flops / 1e12}
    run = step.once()

    def measure(backend: str, *, eager: bool) -> dict[str, Any]:
        use_attention(made, backend)
        with eagerly() if eager else nullcontext(), memory_used(session.device) as used:
            taken = summary(timed(run, session.device, repeats=session.sizes.repeats, warm=3))
        return {**taken, **session.share(flops, taken["ms"]), **used}

    found["eager"] = tried(measure, backends, left_out, step.name, eager=True)
    fastest = min(found["eager"], key=lambda name: found["eager"][name]["ms"], default="native")
    chosen = dict.fromkeys(("native", fastest)) if session.compiled else ()
    chosen = [name for name in chosen if session.in_time(f"{step.name}, compiled, {name}", left_out)]
    found["compiled"] = tried(measure, chosen, left_out, step.name, eager=False)
    return found


def tried(measure: Any, backends: Any, left_out: list[str], name: str, *, eager: bool) -> dict[str, Any]:
    """Measurements by backend; a backend that fails is noted, and the others go on."""
    found = {}
    for backend in backends:
        try:
            found[backend] = measure(backend, eager=eager)
        except RuntimeError as error:  # a kernel that does not take these shapes, or memory that ran out
            left_out.append(f"{name}, {backend}: {' '.join(str(error).split())[:200]}")
    return found
