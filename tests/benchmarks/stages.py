"""What dropping silent branches saves, against all tokens always on, and of what was counted; what negatives cost.

Run by ``nox -s benchmarks``, or alone: ``python tests/benchmarks/stages.py --heads 24 --side 32``.
A slice of FLUX with random weights and tokens, as in ``sampler.py``. FLOPs are torch's count. Rows take turns in every
round, so that a busy machine is unfair to all alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from _side_by_side import flops, measure, ratio
from sampler import CHANNELS, CONTEXT, EMBEDDED, Run, arguments, describe, header
from torch import nn

from subjectgen.core import (
    ChangesWeights,
    Component,
    Conditioning,
    Config as BaseConfig,
    Latents,
    Reference,
    Sample,
    Streams,
    TokenGroup,
    hookimpl,
)
from subjectgen.core.plugins import Plugins
from subjectgen.runner.generation.batches import denoise
from subjectgen.runner.generation.denoising import Denoising, StageInputs, prepare
from subjectgen.runner.generation.samplers import noise
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.system import System

GRID = "cosine"
NEGATIVES = ("empty", "no_references", "same")
ONE_PASS = {"embedded": EMBEDDED}
ALONE = "1 pass, no negative"


class Words(nn.Module):
    """As many context tokens as the prompt and each reference are said to have; in the place of an MLLM with a DLA."""

    class Config(BaseConfig):
        """Numbers of tokens."""

        text: ChangesWeights[int]
        """Of a prompt."""
        image: ChangesWeights[int]
        """Of a reference."""

    inputs = frozenset({"text", "references"})
    width, depth, pooled_width = CONTEXT, 1, None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("place", torch.zeros(()))

    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Conditioning:
        """Random tokens, the same for equal inputs."""
        count = self.config.text * bool(samples[0].prompt) + self.config.image * len(samples[0].references)
        tokens = torch.randn(1, count, CONTEXT, generator=torch.Generator().manual_seed(count)).to(self.place)
        tokens = tokens.expand(len(samples), -1, -1)
        return Conditioning(tokens=tokens, mask=torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


class Pictures(nn.Module):
    """Latents of each reference, in the place of a VAE's encoder."""

    class Config(BaseConfig):
        """Size."""

        side: ChangesWeights[int]
        """Latent pixels along each axis."""

    inputs = frozenset({"references"})
    width, depth, pooled_width = CHANNELS, 1, None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("place", torch.zeros(()))

    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Latents:
        """Random latents, the same for every reference of one number."""
        shape = (1, CHANNELS, self.config.side, self.config.side)
        values = (torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(9))
        counts = range(len(samples[0].references))
        return Latents(
            values=tuple(
                v.to(self.place).expand(len(samples), -1, -1, -1) for v, _ in zip(values, counts, strict=False)
            )
        )


class BenchmarkEncoders:
    """A plugin of this file."""

    @hookimpl
    def subjectgen_encoders(self) -> list[Component]:
        """Both of them."""
        return [
            Component(name="words", target=f"{__name__}:Words", summary="Random context tokens."),
            Component(name="pictures", target=f"{__name__}:Pictures", summary="Random latents."),
        ]


def system(options: argparse.Namespace, **schedule: Any) -> System:
    """The experiment, built; ``schedule`` differs between rows."""
    side = 2 * options.side
    architecture = {
        "num_layers": options.double,
        "num_single_layers": options.single,
        "num_attention_heads": options.heads,
    }
    tree = {
        "branches": {
            "mllm": {
                "encoder": {"name": "words", "text": options.text, "image": options.image},
                "injector": {"name": "context"},
            },
            "vae": {"encoder": {"name": "pictures", "side": side}, "injector": {"name": "reference_tokens"}},
        },
        "backbone": {"name": "flux", "architecture": architecture, "dtype": options.dtype},
        "autoencoder": {"name": "vae", "checkpoint": "package:subjectgen.toybox/weights/vae", "subfolder": ""},
        "schedule": {"steps": options.steps, "grid": GRID, **schedule},
    }
    plugins = Plugins.discover()
    plugins.register(BenchmarkEncoders(), distribution="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.yaml"
        path.write_text(yaml.safe_dump(tree))
        built = build_system(Experiment.read(path, plugins=plugins), device=options.device)
    nn.init.normal_(built.backbone.transformer.proj_out.weight, std=0.02)
    return built


def samples(count: int) -> list[Sample]:
    """Prompts with one reference each."""
    return [Sample(prompt="a toy", references=(Reference(image=torch.rand(3, 64, 64)),)) for _ in range(count)]


# ------------------------------------------------------------------------------------------------------ measuring


def realised(counted: float, measured: float) -> str:
    """Share of the counted saving that was measured; both are speed-ups."""
    return f"{(1 - 1 / measured) / (1 - 1 / counted):.1%}" if counted > 1.001 else "-"


def systems(options: argparse.Namespace) -> dict[str, System]:
    """All tokens at all times; silent branches zeroed; silent branches dropped. The weights are the same."""
    built = {
        "always on": system(options, name="always_on", guidance=ONE_PASS),
        "zeroed": system(options, name="three_stage", inactive="zero", guidance=ONE_PASS),
        "dropped": system(options, name="three_stage", guidance=ONE_PASS),
    }
    return {name: replace(one, backbone=built["always on"].backbone) for name, one in built.items()}


def planned(one: System, options: argparse.Namespace) -> Denoising:
    """A batch with its streams."""
    return prepare(one, samples(options.batch), (2 * options.side, 2 * options.side))


def steps_of(denoising: Denoising) -> list[StageInputs]:
    """What each step feeds the backbone."""
    return [denoising.inputs[denoising.passes(t)] for t in denoising.times[:-1]]


def start(options: argparse.Namespace) -> torch.Tensor:
    """The noise of seeds 0, 1, ..."""
    shape = (CHANNELS, 2 * options.side, 2 * options.side)
    return noise(range(options.batch), shape).to(options.device)


def tokens(streams: Streams, options: argparse.Namespace) -> int:
    """In the whole sequence."""
    return options.side**2 + sum(group.tokens.shape[1] for group in (*streams.context, *streams.references))


def masked(full: Streams, dropped: Streams) -> Streams:
    """All tokens, with those that the other streams lack hidden from everyone."""

    def hide(groups: tuple[TokenGroup, ...], kept: bool) -> tuple[TokenGroup, ...]:
        return groups if kept else tuple(replace(one, mask=torch.zeros_like(one.mask)) for one in groups)

    context = hide(full.context, bool(dropped.context))
    return replace(full, context=context, references=hide(full.references, bool(dropped.references)))


def stage_streams(built: dict[str, System], options: argparse.Namespace) -> dict[str, tuple[float, dict[str, Streams]]]:
    """By stage: a timestep, and what each row feeds the backbone there."""
    plans = {name: planned(one, options) for name, one in built.items()}
    found: dict[str, tuple[float, dict[str, Streams]]] = {}
    for number, t in enumerate(plans["dropped"].times[:-1]):
        fed = {name: steps_of(plan)[number].streams[0] for name, plan in plans.items()}
        fed["masked"] = masked(fed["always on"], fed["dropped"])
        found[built["dropped"].schedule.stage(t)] = t, fed
    return found


def report_stages(built: dict[str, System], options: argparse.Namespace) -> None:
    """One velocity per stage. ``of counted``: share of the counted saving that was realised."""
    backbone, latents = built["always on"].backbone, start(options)
    print(f"\nOne step of each stage\n{header(options, grid=GRID, guidance=ALONE)}")
    print("masked: all tokens, those of silent branches hidden from everyone, with a mask; difference: to dropped")
    titles = f"{'counted':>10}{'measured':>10}{'of counted':>12}{'difference':>12}"
    print(f"{'':22}{'tokens':>8}{'ms':>10}{'GFLOPs':>10}{titles}")
    for stage, (t, fed) in stage_streams(built, options).items():
        when = torch.full((len(latents),), t, device=latents.device)
        rows: dict[str, Run] = {
            name: (lambda one=one, when=when: backbone(latents, when, one, guidance=EMBEDDED))
            for name, one in fed.items()
        }
        times = measure(rows, options.repeats, options.device)
        counts, exact = {name: flops(run) for name, run in rows.items()}, rows["dropped"]()
        for name, run in rows.items():
            counted, took = counts["always on"] / counts[name], 1 / ratio(times, name, "always on")
            error = float((run() - exact).abs().max())
            print(
                f"{stage + ', ' + name:22}{tokens(fed[name], options):8}{statistics.median(times[name]):10.1f}"
                f"{counts[name] / 1e9:10.1f}{counted:9.2f}x{took:9.2f}x{realised(counted, took):>12}{error:12.1e}"
            )


def report_images(rows: dict[str, System], options: argparse.Namespace, title: str, scale: str) -> None:
    """Whole samplings without the encoders, which run once; the first row is the base."""
    latents = start(options)
    plans = {name: planned(one, options) for name, one in rows.items()}
    runs: dict[str, Run] = {name: (lambda plan=plan: denoise(plan, latents)) for name, plan in plans.items()}
    times, counts = measure(runs, options.repeats, options.device), {name: flops(run) for name, run in runs.items()}
    first = next(iter(rows))
    final = {name: run() for name, run in runs.items()}
    print(f"\n{title}\n{header(options, grid=GRID, guidance=scale)}")
    print("calls: of the backbone, all steps; difference: of the result to the first row's, in root mean squares")
    titles = f"{'counted':>10}{'measured':>10}{'of counted':>12}{'difference':>12}"
    print(f"{'':40}{'calls':>7}{'ms':>10}{'GFLOPs':>10}{titles}")
    for name in rows:
        counted, took = counts[first] / counts[name], 1 / ratio(times, name, first)
        calls = sum(len(step.streams) for step in steps_of(plans[name]))
        change = float((final[name] - final[first]).norm() / final[first].norm())
        print(
            f"{name:40}{calls:7}{statistics.median(times[name]):10.1f}{counts[name] / 1e9:10.1f}"
            f"{counted:9.2f}x{took:9.2f}x{realised(counted, took):>12}{change:12.1e}"
        )


def negatives(built: System, options: argparse.Namespace) -> dict[str, System]:
    """All tokens always on with the references in both passes, then three stages with each negative.

    ``same``: the references without the prompt; ``no_references``: the prompt; ``empty``: neither.
    """
    guidance: dict[str, Any] = {"embedded": EMBEDDED, "true_cfg": 2.5}
    rows = {"always on, negative same": system(options, name="always_on", guidance={**guidance, "negative": "same"})}
    for negative in NEGATIVES:
        key = f"three stages, negative {negative}"
        rows[key] = system(options, name="three_stage", guidance={**guidance, "negative": negative})
    return {name: replace(one, backbone=built.backbone) for name, one in rows.items()}


@torch.no_grad()
def main() -> None:
    """Print the tables."""
    options = arguments(__doc__)
    describe(options)
    built = systems(options)
    report_stages(built, options)
    report_images(built, options, "A whole image, one pass", ALONE)
    scale = "2 passes where they differ (true_cfg 2.5), negative: as each row says"
    report_images(negatives(built["always on"], options), options, "A whole image with guidance", scale)


if __name__ == "__main__":
    main()
