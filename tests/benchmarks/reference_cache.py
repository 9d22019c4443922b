"""Isolated references: keys and values kept over the steps beside keys and values computed in every step.

Run by ``nox -s benchmarks``, or alone: ``python tests/benchmarks/reference_cache.py --width 3072 --grid 32``.
A slice of FLUX at true width with random weights, one pass per step; a stage of steps with references. Both rows give
the same bits (checked before timing), full attention is shown beside them. Rows take turns in every round, so that a
busy machine is unfair to all alike. FLOPs are counted by torch's own counter.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from _side_by_side import flops, flux_slice, introduce, measure, parser
from torch import Tensor

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.backbones.reference_tokens import ReferenceTokensInjector
from subjectgen.core import Latents, Streams
from subjectgen.testing.backbone import token_group

Variant = Callable[[], Tensor]
GUIDANCE = 2.5


def seeded(options: argparse.Namespace, reference_attention: str) -> FluxBackbone:
    """A slice of FLUX; the same weights for the same seed."""
    torch.manual_seed(options.seed)
    return flux_slice(options, reference_attention=reference_attention)


def streams_of(model: FluxBackbone, options: argparse.Namespace) -> Streams:
    """Text tokens and references of equal size."""
    tokens = torch.randn(1, options.context, 4096, device=options.device)
    size = 2 * options.reference_grid
    images = tuple(torch.randn(1, 16, size, size, device=options.device) for _ in range(options.references))
    plain = Streams(target_grid=(options.grid, options.grid), context=(token_group(tokens),))
    injector = ReferenceTokensInjector(ReferenceTokensInjector.Config(), backbone=model)
    streams: Streams = injector(plain, Latents(values=images))
    return streams


@torch.no_grad()
def variants(options: argparse.Namespace) -> dict[str, Variant]:
    """One step of each row, and the pass that fills the cache."""
    full, isolated = (seeded(options, kind) for kind in ("full", "isolated"))
    streams = streams_of(isolated, options)
    dtype, size = getattr(torch, options.dtype), 2 * options.grid
    latents = torch.randn(1, 16, size, size, device=options.device, dtype=dtype)
    timestep = torch.full((1,), 0.5, device=options.device)
    kept = isolated.cache_references(streams)

    def step(model: FluxBackbone, given: Streams) -> Variant:
        return lambda: model(latents, timestep, given, guidance=GUIDANCE)

    return {
        "isolated, computed in every step": step(isolated, streams),
        "isolated, kept": step(isolated, kept),
        "filling the cache, once per stage": lambda: isolated.cache_references(streams).keys_values[0].keys,
        "full attention": step(full, streams),
    }


@torch.no_grad()
def report(rows: dict[str, Variant], options: argparse.Namespace) -> None:
    """Print the table. ``time x`` and ``FLOPs x``: first row / this row, times in the same round, median.

    ``realised``: time saved against the first row / FLOPs saved, both as shares; for a stage with its filling.
    """
    names = list(rows)
    same = torch.equal(rows[names[0]](), rows[names[1]]())
    times = measure(rows, options.repeats, options.device)
    counted = {name: flops(run) for name, run in rows.items()}
    print(f"equality {'bit-equal' if same else 'NOT EQUAL'}")
    print(f"{'':38}{'ms':>10}{'time x':>9}{'GFLOPs':>10}{'FLOPs x':>9}{'realised':>10}")
    for name in names:
        print_row(name, times[names[0]], times[name], counted[names[0]], counted[name])
    count = options.steps
    stage = [(kept * count + fill) / count for kept, fill in zip(times[names[1]], times[names[2]], strict=True)]
    flops_of_stage = (counted[names[1]] * count + counted[names[2]]) / count
    print_row(f"isolated, kept, stage of {count} steps", times[names[0]], stage, counted[names[0]], flops_of_stage)


def print_row(name: str, base: list[float], found: list[float], base_flops: float, row_flops: float) -> None:
    """One row of the table."""
    share = statistics.median(other / one for one, other in zip(base, found, strict=True))
    counted = row_flops / base_flops
    realised = f"{(1 - share) / (1 - counted):10.1%}" if "kept" in name else f"{'':10}"
    milliseconds = statistics.median(found)
    print(f"{name:38}{milliseconds:10.1f}{1 / share:9.3f}{row_flops / 1e9:10.1f}{1 / counted:9.3f}{realised}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--width", type=int, default=1536, help="channels of the backbone; FLUX: 3072")
    made.add_argument("--double", type=int, default=2, help="double blocks")
    made.add_argument("--single", type=int, default=4, help="single blocks")
    made.add_argument("--grid", type=int, default=24, help="target tokens along one side; 32 is 512 pixels")
    made.add_argument("--references", type=int, default=1, help="references")
    made.add_argument("--reference-grid", type=int, default=24, help="tokens of a reference along one side")
    made.add_argument("--context", type=int, default=128, help="text tokens")
    made.add_argument("--steps", type=int, default=16, help="steps that share one cache")
    return made.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    introduce(options)
    rows = variants(options)
    print(
        f"sizes    width {options.width}, {options.double} double and {options.single} single blocks, "
        f"{options.grid}x{options.grid} target, {options.references} reference of {options.reference_grid}x"
        f"{options.reference_grid}, {options.context} text tokens, {options.dtype}; one pass, torch SDPA, LoRA none; "
        f"median of {options.repeats}"
    )
    report(rows, options)


if __name__ == "__main__":
    main()
