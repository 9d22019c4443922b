"""Added image cross-attention: cost over the plain backbone beside its counted FLOPs, and beside diffusers' IP-Adapter.

Run by ``nox -s benchmarks``, or alone: ``python tests/benchmarks/cross_attention.py --width 3072 --grid 32``.
A slice of FLUX at true width: two double blocks, random weights, one reference of 577 tokens (CLIP ViT-L/14-336). Rows
take turns in every round, so that a busy machine is unfair to all alike. FLOPs are counted by torch's own counter.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from _side_by_side import flops, flux_slice, introduce, measure, parser, ratio
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from torch import Tensor

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.core import Conditioning, Placement, Streams
from subjectgen.testing.backbone import token_group
from subjectgen_dynaip.cross_attention import CrossAttentionInjector

Variant = Callable[[], Tensor]


def variants(options: argparse.Namespace) -> tuple[dict[str, Variant], dict[str, Variant]]:
    """One step of the backbone: plain and with references; and, on the blocks both have, diffusers' IP-Adapter."""
    model = flux_slice(options)
    dtype, device = getattr(torch, options.dtype), options.device
    latents = torch.randn(1, 16, 2 * options.grid, 2 * options.grid, device=device, dtype=dtype)
    context = torch.randn(1, options.context, 4096, device=device, dtype=dtype)
    plain = Streams(target_grid=(options.grid, options.grid), context=(token_group(context),))
    injector = CrossAttentionInjector(CrossAttentionInjector.Config(dtype=options.dtype), backbone=model)
    injector.to(device).eval()
    for layer in injector.values.values():
        torch.nn.init.normal_(layer.weight, std=0.02)
    tokens = torch.randn(1, 2, options.tokens, 4096, device=device, dtype=dtype)

    def step(streams: Streams) -> Tensor:
        return model(latents, torch.full((1,), 0.5, device=device), streams, guidance=3.5)

    one, two = injector(plain, said(tokens[:, :1])), injector(plain, said(tokens))
    halves = injector(replace(plain, placement=left_and_right(options.grid, device)), said(tokens))
    ours = {
        "plain": lambda: step(plain),
        "one reference": lambda: step(one),
        "two references, everywhere": lambda: step(two),
        "two references, half the picture each": lambda: step(halves),
    }
    return ours, against_diffusers(model, injector, plain, tokens[:, 0], step, options)


def said(tokens: Tensor) -> Conditioning:
    """Conditioning of k references, tokens (1, k, g, d)."""
    count, length = tokens.shape[1:3]
    owner = torch.arange(count, device=tokens.device).repeat_interleave(length)[None]
    return Conditioning(tokens=tokens.flatten(1, 2), mask=torch.ones_like(owner, dtype=torch.bool), reference=owner)


def left_and_right(grid: int, device: str) -> Placement:
    """Two halves."""
    left = torch.zeros(grid, grid, device=device)
    left[:, : grid // 2] = 1
    return Placement(regions=torch.stack([left, 1 - left])[None], weights=torch.ones(1, 2, device=device))


def against_diffusers(
    model: FluxBackbone,
    injector: CrossAttentionInjector,
    plain: Streams,
    tokens: Tensor,
    step: Callable[[Streams], Tensor],
    options: argparse.Namespace,
) -> dict[str, Variant]:
    """Double blocks only: diffusers' IP-Adapter has no place in single blocks."""
    transformer = model.transformer
    own = transformer.attn_processors
    theirs = dict(own)
    for name in own:
        if name.startswith("transformer_blocks"):
            processor = FluxIPAdapterAttnProcessor(
                options.width, 4096, num_tokens=(options.tokens,), dtype=tokens.dtype
            )
            theirs[name] = processor.to(tokens.device)
    sites = tuple(range(options.double))
    narrow = CrossAttentionInjector(CrossAttentionInjector.Config(dtype=options.dtype, sites=sites), backbone=model)
    narrow.load_state_dict({k: v for k, v in injector.state_dict().items() if int(k.split(".")[1]) in sites})
    ours = narrow.to(tokens.device).eval()(plain, said(tokens[:, None]))

    def with_processors(processors: dict[str, object], run: Variant) -> Variant:
        def call() -> Tensor:
            for name, module in attentions(transformer):
                module.set_processor(processors[name])
            return run()

        return call

    def ip_adapter() -> Tensor:
        arguments = {"ip_hidden_states": [tokens]}
        handle = transformer.register_forward_pre_hook(
            lambda _, __, keywords: ((), {**keywords, "joint_attention_kwargs": arguments}), with_kwargs=True
        )
        try:
            return step(plain)
        finally:
            handle.remove()

    return {
        "plain": with_processors(own, lambda: step(plain)),
        "ours, double blocks": with_processors(own, lambda: step(ours)),
        "diffusers' IP-Adapter": with_processors(theirs, ip_adapter),
    }


def attentions(transformer: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Attention modules by the names of their processors."""
    return [(f"{n}.processor", m) for n, m in transformer.named_modules() if hasattr(m, "set_processor")]


@torch.no_grad()
def report(rows: dict[str, Variant], options: argparse.Namespace) -> None:
    """Print the table. ``time x``: against the first row in the same round, median; ``FLOPs x``: counted; ``overhead``:
    added time over added FLOPs, both as shares of the first row's."""
    times = measure(rows, options.repeats, options.device)
    counted = {name: flops(run) for name, run in rows.items()}
    first = next(iter(rows))
    print(f"{'':40}{'ms':>10}{'time x':>9}{'GFLOPs':>10}{'FLOPs x':>9}{'overhead':>10}")
    for name, found in times.items():
        share = ratio(times, name, first)
        counts = counted[name] / counted[first]
        overhead = f"{(share - 1) / (counts - 1):10.2f}" if counts > 1 else ""
        milliseconds = statistics.median(found)
        print(f"{name:40}{milliseconds:10.1f}{share:9.4f}{counted[name] / 1e9:10.1f}{counts:9.4f}{overhead}")


def attention_alone(options: argparse.Namespace) -> None:
    """Print the rate of attention by itself: two references one after another, and in one batched call."""
    heads, dtype, device = options.width // 128, getattr(torch, options.dtype), options.device
    query = torch.randn(1, options.grid**2, heads, 128, device=device, dtype=dtype).transpose(1, 2)
    keys, values = (torch.randn(2, heads, options.tokens, 128, device=device, dtype=dtype) for _ in range(2))

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values)

    rows = {
        "two references, one after another": lambda: (
            attend(query, keys[:1], values[:1]) + attend(query, keys[1:], values[1:])
        ),
        "two references, one batched call": lambda: attend(query.expand(2, -1, -1, -1), keys, values).sum(0),
    }
    times = measure(rows, 4 * options.repeats, device)
    for name, found in times.items():
        milliseconds = statistics.median(found)
        print(f"{name:40}{milliseconds:10.1f}{'':9}{flops(rows[name]) / milliseconds / 1e6:10.1f} GFLOP/s")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--width", type=int, default=1536, help="channels of the backbone; FLUX: 3072")
    made.add_argument("--double", type=int, default=2, help="double blocks")
    made.add_argument("--single", type=int, default=2, help="single blocks")
    made.add_argument("--grid", type=int, default=32, help="target tokens along one side; 32 is 512 pixels")
    made.add_argument("--context", type=int, default=128, help="text tokens")
    made.add_argument("--tokens", type=int, default=577, help="tokens of the reference")
    return made.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    introduce(options)
    ours, theirs = variants(options)
    print(
        f"sizes    width {options.width}, {options.double} double and {options.single} single blocks, "
        f"{options.grid}x{options.grid} target, {options.context} text and {options.tokens} reference tokens, "
        f"{options.dtype}; one pass, torch SDPA, LoRA none; median of {options.repeats}"
    )
    report(ours, options)
    report(theirs, options)
    attention_alone(options)


if __name__ == "__main__":
    main()
