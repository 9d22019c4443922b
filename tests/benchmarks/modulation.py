"""Modulation computed once for all steps beside modulation computed in every step.

Run by ``nox -s benchmarks``, or alone: ``python tests/benchmarks/modulation.py --width 3072 --grid 32``.
A slice of FLUX at true width with random weights, one pass per step. Both rows have the same weights and give the same
velocities (checked before timing). Rows take turns in every round, so that a busy machine is unfair to all alike. FLOPs
are counted by torch's own counter.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from _side_by_side import flops, flux_slice, introduce, measure, parser, ratio
from torch import Tensor

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.core import Backbone, StepConditions, Streams
from subjectgen.testing.backbone import token_group

GUIDANCE = 2.5


def modulation_share(model: FluxBackbone) -> float:
    """Share of the weights that only make modulation."""
    counted = sum(parameter.numel() for layer in model.only_prepares() for parameter in layer.parameters())
    return counted / sum(parameter.numel() for parameter in model.transformer.parameters())


@torch.no_grad()
def report(model: FluxBackbone, streams: Streams, options: argparse.Namespace) -> None:
    """Check that both rows agree, measure them in turns, and print the table."""
    device, dtype = options.device, getattr(torch, options.dtype)
    latents = torch.randn(1, 16, 2 * options.grid, 2 * options.grid, device=device, dtype=dtype)
    times = [1 - step / options.steps for step in range(options.steps)]
    requests = [StepConditions(t, streams.pooled, GUIDANCE) for t in times]

    def step(t: float, backbone: Backbone = model) -> Tensor:
        return backbone(latents, torch.full((1,), t), streams, guidance=GUIDANCE)

    def looked_up() -> None:
        prepared = model.prepare(requests)
        for t in times:
            step(t, prepared)

    difference = 0.0
    for t in times[:: max(len(times) // 4, 1)]:
        expected, found = step(t), step(t, model.prepare(requests))
        difference = max(difference, float((found - expected).abs().max() / expected.abs().max()))
    prepared = model.prepare(requests)
    counted = [flops(lambda: step(times[0])), flops(lambda: step(times[0], prepared))]
    print(
        f"equality largest relative difference {difference:.1e}; modulation is {modulation_share(model):.1%} of weights"
    )
    rows = {"computed in every step": lambda: [step(t) for t in times], "looked up, table included": looked_up}
    taken = measure({**rows, "the table alone": lambda: model.prepare(requests)}, options.repeats, device)
    print(f"{'':34}{'ms/step':>10}{'time x':>9}{'GFLOPs/step':>13}")
    for number, name in enumerate(rows):
        milliseconds = statistics.median(taken[name]) / options.steps
        share = ratio(taken, "computed in every step", name)
        print(f"{name:34}{milliseconds:10.1f}{share:9.3f}{counted[number] / 1e9:13.2f}")
    print(f"{'the table alone':34}{statistics.median(taken['the table alone']) / options.steps:10.1f}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--width", type=int, default=1536, help="channels of the backbone; FLUX: 3072")
    made.add_argument("--double", type=int, default=2, help="double blocks")
    made.add_argument("--single", type=int, default=4, help="single blocks")
    made.add_argument("--grid", type=int, default=16, help="target tokens along one side; 32 is 512 pixels")
    made.add_argument("--context", type=int, default=128, help="text tokens")
    made.add_argument("--steps", type=int, default=8, help="steps that share one table")
    return made.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    introduce(options)
    model = flux_slice(options)
    tokens = torch.randn(1, options.context, 4096, device=options.device)
    pooled = torch.randn(1, model.pooled_width, device=options.device)
    streams = Streams(target_grid=(options.grid, options.grid), context=(token_group(tokens),), pooled=pooled)
    print(
        f"sizes    width {options.width}, {options.double} double and {options.single} single blocks, "
        f"{options.grid}x{options.grid} target, {options.context} text tokens, {options.steps} steps, {options.dtype}; "
        f"one pass, torch SDPA, LoRA none; median of {options.repeats}"
    )
    report(model, streams, options)


if __name__ == "__main__":
    main()
