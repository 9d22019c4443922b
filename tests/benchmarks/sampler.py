"""The sampler beside diffusers' own pipelines: the same transformer, tokens, steps and passes.

Run by ``nox -s benchmarks``, or alone: ``python tests/benchmarks/sampler.py --heads 24 --side 32``.
A slice of FLUX with random weights; the tokens are random too, for only their number matters here. Rows take turns in
every round, so that a busy machine is unfair to all alike.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _side_by_side import introduce, measure, parser, ratio
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxPipeline
from torch import Tensor, nn

from subjectgen.backbones.packing import pack_latents, unpack_latents
from subjectgen.backbones.positions import reference_position_ids
from subjectgen.core import StepConditions, Streams, TokenGroup
from subjectgen.runner.generation.denoising import StageInputs
from subjectgen.runner.generation.samplers import euler, noise
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.system import System
from subjectgen.testing.backbone import reference_group, token_group

Run = Callable[[], Tensor]
DEMO = Path(__file__).parents[2] / "experiments" / "toybox" / "demo.yaml"
CONTEXT = 4096
CHANNELS = 16
EMBEDDED = 2.5


def system(options: argparse.Namespace) -> System:
    """The demo's experiment on a slice of FLUX; its encoders are not used."""
    sizes = {"num_layers": options.double, "num_single_layers": options.single, "num_attention_heads": options.heads}
    changes = ["backbone=null", f"backbone={{name: flux, dtype: {options.dtype}, architecture: {json.dumps(sizes)}}}"]
    changes.append(f"schedule.guidance.embedded={EMBEDDED}")  # a slice of FLUX has the input, the demo's has not
    built = build_system(Experiment.read(DEMO, changes), device=options.device)
    nn.init.normal_(built.backbone.transformer.proj_out.weight, std=0.02)  # untrained, it is zero
    return built


# ------------------------------------------------------------------------------------------------------ the peers


def peers(built: System, options: argparse.Namespace, *, references: bool, scale: float) -> dict[str, Run]:
    """Our sampler and diffusers' pipeline on the same transformer, tokens, steps and passes."""
    start = noise(range(options.batch), (CHANNELS, 2 * options.side, 2 * options.side)).to(built.device)
    streams = made_streams(built, options, seed=0, references=references)
    both = (streams,) if scale == 1.0 else (streams, made_streams(built, options, seed=1, references=references))
    times = tuple(1 - step / options.steps for step in range(options.steps + 1))

    def ours(joined: bool) -> Given:
        fed = (stacked(both),) if joined else both
        return Given(built, times, StageInputs(streams=fed, joined=joined, embedded=EMBEDDED, scale=scale))

    rows: dict[str, Run] = {"diffusers": diffusers_loop(built, options, both, start, scale)}
    rows["ours"] = lambda: ours(False).sampled(start)
    rows["ours, modulation in every step"] = lambda: ours(False).sampled(start, prepared=False)
    if scale != 1.0:
        rows["ours, both passes in one batch"] = lambda: ours(True).sampled(start)
    return rows


@dataclass(frozen=True)
class Given:
    """What every step feeds the backbone."""

    built: System
    times: tuple[float, ...]
    inputs: StageInputs

    def sampled(self, start: Tensor, *, prepared: bool = True) -> Tensor:
        """The runner's own loop; ``prepared``: with what is computed before the first step."""
        backbone = self.built.backbone
        if prepared:
            backbone = backbone.prepare([StepConditions(t, None, EMBEDDED) for t in self.times[:-1]])
        return euler(lambda x, t: self.inputs.velocity(backbone, x, x.new_tensor(t)), start, self.times)


def made_streams(built: System, options: argparse.Namespace, *, seed: int, references: bool) -> Streams:
    """Random context, and one reference of the target's size."""
    chance = torch.Generator().manual_seed(seed)
    grid, place = (options.side, options.side), {"device": built.device, "dtype": getattr(torch, options.dtype)}
    tokens = torch.randn(options.batch, options.text + options.image, CONTEXT, generator=chance).to(**place)
    latents = torch.randn(options.batch, CHANNELS, 2 * grid[0], 2 * grid[1], generator=torch.Generator().manual_seed(9))
    picture = reference_group(pack_latents(latents.to(**place), 2), 0, grid)
    return Streams(target_grid=grid, context=(token_group(tokens),), references=(picture,) if references else ())


def stacked(parts: Sequence[Streams]) -> Streams:
    """Two passes as one batch."""
    context, references = (
        tuple(joined_groups(groups) for groups in zip(*kind, strict=True))
        for kind in ([part.context for part in parts], [part.references for part in parts])
    )
    return replace(parts[0], context=context, references=references)


def joined_groups(groups: Sequence[TokenGroup]) -> TokenGroup:
    """The rows of one after those of another."""
    tokens, mask = (torch.cat([getattr(one, name) for one in groups]) for name in ("tokens", "mask"))
    return replace(groups[0], tokens=tokens, mask=mask)


class PlacedKontext(FluxKontextPipeline):
    """Kontext's pipeline with the reference where our backbone has it; Kontext's own is (1, row, column)."""

    def prepare_latents(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As the pipeline's own; the last are the reference's position ids."""
        latents, reference, ids, own = super().prepare_latents(*args, **kwargs)
        side = math.isqrt(len(own))
        (placed,) = reference_position_ids((side, side), [(side, side)], device=own.device)
        return latents, reference, ids, placed.to(own.dtype)


def diffusers_loop(
    built: System, options: argparse.Namespace, both: Sequence[Streams], start: Tensor, scale: float
) -> Run:
    """``FluxPipeline`` without references, ``FluxKontextPipeline`` with one: their denoising code, given embeddings."""
    transformer, dtype = built.backbone.transformer, getattr(torch, options.dtype)
    kind = PlacedKontext if both[0].references else FluxPipeline
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
    if both[0].references:
        grid = (options.side, options.side)
        given |= {"image": unpack_latents(both[0].references[0].tokens, grid, 2), "_auto_resize": False}
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
