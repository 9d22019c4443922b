"""The sampler beside diffusers' own pipelines: the same transformer, tokens, steps and passes.

Run by ``nox -s benchmarks``, or alone: ``python tests/benchmarks/sampler.py --heads 24 --side 32``.
A slice of FLUX with random weights; the tokens are random too, for only their number matters here. Rows take turns in
every round, so that a busy machine is unfair to all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _side_by_side import introduce, measure, parser, ratio
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxPipeline
from torch import Tensor, nn

from subjectgen.backbones.packing import pack_latents, unpack_latents
from subjectgen.core import Guidance, Streams, TokenGroup
from subjectgen.core.plugins import Plugins
from subjectgen.runner import sampling
from subjectgen.runner.assemble import System
from subjectgen.runner.experiment import Experiment

Run = Callable[[], Tensor]
DEMO = Path(__file__).parents[2] / "experiments" / "toybox" / "demo.yaml"
CONTEXT = 4096
CHANNELS = 16
EMBEDDED = 2.5


def system(options: argparse.Namespace) -> System:
    """The demo's experiment on a slice of FLUX; its encoders are not used."""
    sizes = {"num_layers": options.double, "num_single_layers": options.single, "num_attention_heads": options.heads}
    changes = ["backbone=null", f"backbone={{name: flux, dtype: {options.dtype}, architecture: {json.dumps(sizes)}}}"]
    built = System(Experiment.read(DEMO, changes), Plugins.discover(), device=options.device)
    nn.init.normal_(built.backbone.transformer.proj_out.weight, std=0.02)  # untrained, it is zero
    built.backbone.eval()
    return built


# ------------------------------------------------------------------------------------------------------ the peers


def peers(built: System, options: argparse.Namespace, *, references: bool, scale: float) -> dict[str, Run]:
    """Our sampler and diffusers' pipeline on the same transformer, tokens, steps and passes."""
    start = sampling.noise(range(options.batch), (CHANNELS, 2 * options.side, 2 * options.side)).to(built.device)
    streams = made_streams(built, options, seed=0, references=references)
    both = (streams,) if scale == 1.0 else (streams, made_streams(built, options, seed=1, references=references))
    times = tuple(1 - step / options.steps for step in range(options.steps + 1))
    guidance = Guidance(embedded=EMBEDDED, true_cfg=scale)

    def planned(joined: bool) -> sampling.Plan:
        fed = (stacked(both),) if joined else both
        work = sampling.Work(streams=fed, joined=joined, guidance=guidance)
        return sampling.Plan(times=times, stages=("all",) * options.steps, work=(work,) * options.steps)

    rows: dict[str, Run] = {"diffusers": diffusers_loop(built, options, both, start, scale)}
    rows["ours"] = lambda: prepared(built, planned(False), start)
    rows["ours, modulation in every step"] = lambda: sampling.denoise(built, planned(False), start)
    if scale != 1.0:
        rows["ours, both passes in one batch"] = lambda: prepared(built, planned(True), start)
    return rows


def prepared(built: System, plan: sampling.Plan, start: Tensor) -> Tensor:
    """Our loop, with what is computed before the first step."""
    with sampling.ready(built, [plan]):
        return sampling.denoise(built, plan, start)


def made_streams(built: System, options: argparse.Namespace, *, seed: int, references: bool) -> Streams:
    """Random context, and one reference at Kontext's positions: (1, row, column)."""
    chance = torch.Generator().manual_seed(seed)
    grid, place = (options.side, options.side), {"device": built.device, "dtype": getattr(torch, options.dtype)}
    tokens = torch.randn(options.batch, options.text + options.image, CONTEXT, generator=chance).to(**place)
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    ids = torch.stack([torch.ones_like(rows), rows, columns], dim=-1).flatten(0, 1).float()
    latents = torch.randn(options.batch, CHANNELS, 2 * grid[0], 2 * grid[1], generator=torch.Generator().manual_seed(9))
    return Streams(
        target_grid=grid,
        context=(group(tokens, torch.zeros(tokens.shape[1], 3)),),
        image=(group(pack_latents(latents.to(**place), 2), ids),) if references else (),
        image_grids=(grid,) if references else (),
    )


def group(tokens: Tensor, ids: Tensor) -> TokenGroup:
    """Tokens that all count."""
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return TokenGroup(tokens=tokens, mask=mask, position_ids=ids.to(tokens.device))


def stacked(parts: Sequence[Streams]) -> Streams:
    """Two passes as one batch."""
    joined = [
        tuple(
            group(torch.cat([one.tokens for one in groups]), groups[0].position_ids)
            for groups in zip(*kind, strict=True)
        )
        for kind in ([part.context for part in parts], [part.image for part in parts])
    ]
    return replace(parts[0], context=joined[0], image=joined[1])


def diffusers_loop(
    built: System, options: argparse.Namespace, both: Sequence[Streams], start: Tensor, scale: float
) -> Run:
    """``FluxPipeline`` without references, ``FluxKontextPipeline`` with one: their denoising code, given embeddings."""
    transformer, dtype = built.backbone.transformer, getattr(torch, options.dtype)
    kind = FluxKontextPipeline if both[0].image else FluxPipeline
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
    pipeline = kind(scheduler=scheduler, transformer=transformer, **nothing)
    pipeline.set_progress_bar_config(disable=True)
    pooled = torch.zeros(options.batch, built.backbone.pooled_width, device=built.device, dtype=dtype)
    given: dict[str, Any] = {"prompt_embeds": both[0].context[0].tokens, "pooled_prompt_embeds": pooled}
    if scale != 1.0:
        given |= {"negative_prompt_embeds": both[1].context[0].tokens, "negative_pooled_prompt_embeds": pooled}
        given["true_cfg_scale"] = scale
    side = 16 * options.side
    if both[0].image:
        grid = (options.side, options.side)
        given |= {"image": unpack_latents(both[0].image[0].tokens, grid, 2), "_auto_resize": False}
        given["max_area"] = side * side

    def run() -> Tensor:
        packed = pipeline(
            height=side,
            width=side,
            num_inference_steps=options.steps,
            guidance_scale=EMBEDDED,
            latents=pack_latents(start.to(dtype), 2),
            output_type="latent",
            return_dict=False,
            **given,
        )[0]
        return unpack_latents(packed, (options.side, options.side), 2)

    return run


# ------------------------------------------------------------------------------------------------------ measuring


def header(options: argparse.Namespace, *, grid: str, guidance: str) -> str:
    """What every table says of itself."""
    return (
        f"{guidance}; embedded guidance {EMBEDDED}; grid {grid}, {options.steps} steps; batch {options.batch}\n"
        "LoRA: none, which costs what a merged one does; attention: torch SDPA, its own choice of kernel, no mask but "
        "where said"
    )


@torch.no_grad()
def report_peers(built: System, options: argparse.Namespace) -> None:
    """The first tables: milliseconds of a whole sampling, ours by diffusers'."""
    for references in (False, True):
        for scale in (1.0, 2.5):
            rows = peers(built, options, references=references, scale=scale)
            expected = rows["diffusers"]()
            errors = {name: float((run() - expected).abs().max() / expected.abs().max()) for name, run in rows.items()}
            times = measure(rows, options.repeats, options.device)
            counts = [options.text + options.image, options.side**2, options.side**2 * references]
            print(f"\n{'FluxKontextPipeline' if references else 'FluxPipeline'}: ", end="")
            print(f"context/target/reference tokens {'/'.join(map(str, counts))}")
            same = "2 passes (true_cfg 2.5), negative: other text of the same length, the same references"
            print(header(options, grid="linear", guidance="1 pass, no negative" if scale == 1.0 else same))
            print(f"{'':36}{'ms':>10}{'min':>10}{'/ diffusers':>13}{'difference':>12}")
            for row, found in times.items():
                share = ratio(times, row, "diffusers")
                print(f"{row:36}{statistics.median(found):10.1f}{min(found):10.1f}{share:13.3f}{errors[row]:12.1e}")


def arguments(description: str | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(description, repeats=9)
    made.add_argument("--heads", type=int, default=4, help="heads of 128 channels; FLUX: 24")
    made.add_argument("--double", type=int, default=2, help="double blocks; FLUX: 19")
    made.add_argument("--single", type=int, default=4, help="single blocks; FLUX: 38")
    made.add_argument("--text", type=int, default=32, help="context tokens of the prompt")
    made.add_argument("--image", type=int, default=64, help="context tokens of the reference")
    made.add_argument("--side", type=int, default=16, help="tokens along each axis of target and reference")
    made.add_argument("--steps", type=int, default=8)
    made.add_argument("--batch", type=int, default=1)
    return made.parse_args()


def describe(options: argparse.Namespace) -> None:
    """Command, machine, versions, seed, and what runs."""
    introduce(options)
    print(
        f"{options.double}+{options.single} blocks of width {128 * options.heads}, {options.dtype}, random weights;",
        end="",
    )
    print(" median of rounds, ratios within a round")


def main() -> None:
    """Print the tables."""
    options = arguments(__doc__)
    describe(options)
    report_peers(system(options), options)


if __name__ == "__main__":
    main()
