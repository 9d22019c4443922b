"""What dropping silent branches saves against zeroing them, side by side: per stage and for a whole image.

    python tests/benchmarks/stages.py [--experiment experiments/toybox/demo.yaml] [--batch 8] [--repeats 7]

The backbone step alone is timed per stage, then a whole image with conditioning. Variants take turns within each
repeat, so that a busy machine slows all of them alike; the table shows medians and the ratio.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch

from subjectgen.core import Sample
from subjectgen.core.plugins import Plugins
from subjectgen.runner import sampling
from subjectgen.runner.assemble import System
from subjectgen.runner.conditioning import Conditioner
from subjectgen.runner.experiment import Experiment

VARIANTS = ("drop", "zero")


def samples(system: System, count: int) -> list[Sample]:
    """Held-out toys with prompts."""
    dataset = system.plugins.build("datasets", {"name": "held_out_toys", "toys": count, "scenes": 1})
    return [dataset[index] for index in range(count)]


def tokens(system: System, batch: list[Sample], grid: tuple[int, int], t: float) -> int:
    """Tokens in the backbone's sequence at a timestep."""
    streams = Conditioner(system, batch, target_grid=grid).streams(system.schedule.active(t))
    return grid[0] * grid[1] + sum(group.tokens.shape[1] for group in (*streams.context, *streams.image))


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run; all take turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for name in runs:
        runs[name]()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="experiments/toybox/demo.yaml")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plugins = Plugins.discover()
    systems = {
        name: System(Experiment.read(arguments.experiment, [f"schedule.inactive={name}"]), plugins, device=device)
        for name in VARIANTS
    }
    for system in systems.values():
        if system.experiment.settings.trained:
            system.load_trained(system.experiment.settings.trained)
        for module in system.trained_modules():
            module.eval()
    first = systems["drop"]
    batch = samples(first, arguments.batch)
    size = first.experiment.settings.image
    shape = first.latent_shape(size.height, size.width)
    latents = sampling.noise(range(len(batch)), shape).to(device)
    grid = (shape[1] // first.backbone.patch_size, shape[2] // first.backbone.patch_size)
    print(f"python tests/benchmarks/stages.py {' '.join(sys.argv[1:])}")
    threads = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    print(f"{platform.machine()}, {threads}, torch {torch.__version__}, batch {len(batch)}, seeds 0..{len(batch) - 1}")
    print(
        f"{'stage':<8} {'t':>5} {'tokens drop':>12} {'tokens zero':>12} {'drop ms':>9} {'zero ms':>9} {'zero/drop':>10}"
    )
    seen = {
        first.schedule.stage(float(t)): float(t) for t in first.schedule.timesteps(image_tokens=grid[0] * grid[1])[:-1]
    }
    for stage, t in seen.items():
        runs: dict[str, Callable[[], object]] = {}
        for name, system in systems.items():
            streams = Conditioner(system, batch, target_grid=grid).streams(system.schedule.active(t))
            when = torch.full((len(batch),), t, device=device)
            runs[name] = lambda system=system, streams=streams, when=when: system.backbone(latents, when, streams)
        seconds = interleaved(runs, arguments.repeats)
        counts = [tokens(system, batch, grid, t) for system in systems.values()]
        print(_row(stage, f"{t:.2f}", *counts, *(seconds[name] * 1000 for name in VARIANTS)))
    whole = interleaved(
        {name: (lambda system=system: sampling.sample(system, batch, latents)) for name, system in systems.items()},
        max(arguments.repeats // 2, 1),
    )
    print(_row("image", "all", "", "", *(whole[name] * 1000 for name in VARIANTS)))
    scale = first.schedule.guidance(0.5).true_cfg
    print(f"grid {first.experiment.settings.schedule.get('grid')}, {first.schedule.steps} steps, true_cfg {scale}, ")
    print("negative pass: as the schedule says; LoRA not merged; attention: torch SDPA")


def _row(stage: str, t: str, drop_tokens: object, zero_tokens: object, drop: float, zero: float) -> str:
    ratio = f"{zero / drop:.2f}x"
    return f"{stage:<8} {t:>5} {drop_tokens!s:>12} {zero_tokens!s:>12} {drop:>9.1f} {zero:>9.1f} {ratio:>10}"


if __name__ == "__main__":
    main()
