"""Layerwise attention pooling: ours beside torch's own modules, for time and for memory kept for the backward pass.

Run by ``nox -s benchmarks``, or alone: ``python tests/benchmarks/lap.py --width 3584 --tokens 384 --device cuda``.
All rows have the same weights and compute the same function of the same features (checked before timing):
y = sum_i w_i (x + MHA(RMSNorm(x)))_i over n layers of width C. The features need no gradient, as with a frozen
multimodal LLM. The rows take turns in every round, so that a busy machine is unfair to all alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subjectgen.aggregators.heads import choose_heads
from subjectgen.aggregators.layer_attention import LayerAttentionBlock

Variant = Callable[[Tensor], Tensor]


def multihead_attention(block: LayerAttentionBlock, weights: Tensor) -> Variant:
    """nn.MultiheadAttention, then a linear map over the layers."""
    width = block.query.in_features
    reference = nn.MultiheadAttention(width, block.heads, bias=False, batch_first=True).to(weights)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([block.query.weight, block.key.weight, block.value.weight]))
        reference.out_proj.weight.copy_(block.out.weight)

    def run(x: Tensor) -> Tensor:
        normalized = block.norm(x)
        attended = reference(normalized, normalized, normalized, need_weights=False)[0]
        return F.linear((x + attended).mT, weights[None]).squeeze(-1)

    return run


def scaled_dot_product(block: LayerAttentionBlock, weights: Tensor) -> Variant:
    """scaled_dot_product_attention with one fused map for queries, keys and values."""
    fused = nn.Parameter(torch.cat([block.query.weight, block.key.weight, block.value.weight]).detach())
    out = nn.Parameter(block.out.weight.detach().clone())

    def run(x: Tensor) -> Tensor:
        heads = F.linear(block.norm(x), fused).view(*x.shape[:2], 3, block.heads, block.head_width)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return F.linear((x + F.linear(attended, out)).mT, weights[None]).squeeze(-1)

    return run


def variants(width: int, layers: int, dtype: torch.dtype, device: str) -> dict[str, Variant]:
    """The rows of the table, with shared weights."""
    block = LayerAttentionBlock(width, heads=choose_heads(width, None)).to(device, dtype)
    weights = nn.Parameter(torch.randn(layers, device=device, dtype=dtype) / layers)
    return {
        "nn.MultiheadAttention + linear": multihead_attention(block, weights),
        "scaled_dot_product_attention": scaled_dot_product(block, weights),
        "ours, plain": lambda x: torch.matmul(weights, block(x)),
        "ours, factored": lambda x: block.pool(x, weights),
    }


def timed(run: Callable[[], object], device: str) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def forward(variant: Variant, x: Tensor) -> None:
    """Forward pass without a graph."""
    with torch.no_grad():
        variant(x)


def forward_and_backward(variant: Variant, x: Tensor) -> None:
    """Forward and backward pass; gradients go to the parameters."""
    variant(x).sum().backward()


def saved_bytes(variant: Variant, x: Tensor) -> int:
    """Bytes kept for the backward pass that grow with the tokens: each storage once, without the features.

    What does not grow (weights, products of weights and gains) is found by a second run on half the tokens.
    """

    def held(x: Tensor) -> int:
        storages: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = variant(x)
        storages.pop(x.untyped_storage().data_ptr(), None)
        assert result.requires_grad
        return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())

    half = x[: len(x) // 2].clone()
    return (held(x) - held(half)) * len(x) // (len(x) - len(half))


def measure(rows: dict[str, Variant], x: Tensor, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds per row and pass, rows taking turns; the first round warms up and is thrown away."""
    passes = {"forward": forward, "forward+backward": forward_and_backward}
    times: dict[str, dict[str, list[float]]] = {name: {label: [] for label in passes} for name in rows}
    for _ in range(repeats + 1):
        for name, variant in rows.items():
            for label, run in passes.items():
                times[name][label].append(timed(lambda run=run, variant=variant: run(variant, x), x.device.type))
    return {name: {label: found[1:] for label, found in row.items()} for name, row in times.items()}


def check_equal(rows: dict[str, Variant], x: Tensor) -> float:
    """Largest difference between any row and the first, over the first's largest value."""
    with torch.no_grad():
        results = [variant(x).float() for variant in rows.values()]
    return max(((result - results[0]).abs().max() / results[0].abs().max()).item() for result in results)


def report(rows: dict[str, Variant], x: Tensor, repeats: int) -> None:
    """Print the table; ratios are against the first row, more is better."""
    features = x.untyped_storage().nbytes()
    times, base = measure(rows, x, repeats), None
    print(f"{'':32}{'forward ms':>18}{'x':>7}{'fwd+bwd ms':>18}{'x':>7}{'saved/features':>16}{'x':>7}")
    for name, variant in rows.items():
        medians = {label: statistics.median(found) for label, found in times[name].items()}
        saved = saved_bytes(variant, x) / features
        base = base or (*medians.values(), saved)
        cells = [f"{medians[label]:9.2f} ({min(found):7.2f})" for label, found in times[name].items()]
        ratios = [f"{one / other:7.2f}" for one, other in zip(base, (*medians.values(), saved), strict=True)]
        print(f"{name:32}{cells[0]}{ratios[0]}{cells[1]}{ratios[1]}{saved:16.2f}{ratios[2]}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512, help="channels of the hidden states; InternVL3-8B: 3584")
    parser.add_argument("--layers", type=int, default=29, help="hidden states; InternVL3: 29")
    parser.add_argument("--tokens", type=int, default=128, help="valid tokens of the batch")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def machine(device: str) -> str:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def main() -> None:
    """Measure and print."""
    options = arguments()
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.dtype)
    rows = variants(options.width, options.layers, dtype, options.device)
    x = torch.randn(options.tokens, options.layers, options.width, device=options.device, dtype=dtype)
    print(f"command  {shlex.join(['python', *sys.argv])}")
    print(f"machine  {machine(options.device)}")
    print(f"versions python {platform.python_version()}, torch {torch.__version__}; seed {options.seed}")
    print(
        f"sizes    C={options.width} n={options.layers} tokens={options.tokens} {options.dtype}, "
        f"heads={choose_heads(options.width, None)}; median (min) of {options.repeats}; x: first row / this row"
    )
    print(f"equality largest relative difference between rows {check_equal(rows, x):.1e}")
    report(rows, x, options.repeats)


if __name__ == "__main__":
    main()
