"""Layerwise attention pooling: ours beside torch's own modules, for time and for memory kept for the backward pass.

Run by ``nox -s benchmarks``, or alone: ``python tests/benchmarks/lap.py --width 3584 --tokens 384 --device cuda``.
All rows have the same weights and compute the same function of the same features (checked before timing):
y = sum_i w_i (x + MHA(RMSNorm(x)))_i over n layers of width C. The features need no gradient, as with a frozen
multimodal LLM. The rows take turns in every round, so that a busy machine is unfair to all alike.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _side_by_side import introduce, measure, parser, ratio
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


def check_equal(rows: dict[str, Variant], x: Tensor) -> float:
    """Largest difference between any row and the first, over the first's largest value."""
    with torch.no_grad():
        results = [variant(x).float() for variant in rows.values()]
    return max(((result - results[0]).abs().max() / results[0].abs().max()).item() for result in results)


def report(rows: dict[str, Variant], x: Tensor, repeats: int) -> None:
    """Print the table; ratios are against the first row, more is better."""
    features = x.untyped_storage().nbytes()
    passes = {"forward": forward, "forward+backward": forward_and_backward}
    times = {
        label: measure({name: partial(run, variant, x) for name, variant in rows.items()}, repeats, x.device.type)
        for label, run in passes.items()
    }
    first, base = next(iter(rows)), 0.0
    print(f"{'':32}{'forward ms':>18}{'x':>7}{'fwd+bwd ms':>18}{'x':>7}{'saved/features':>16}{'x':>7}")
    for name, variant in rows.items():
        saved = saved_bytes(variant, x) / features
        base = base or saved
        cells = [
            f"{statistics.median(found[name]):9.2f} ({min(found[name]):7.2f}){ratio(found, first, name):7.2f}"
            for found in times.values()
        ]
        print(f"{name:32}{cells[0]}{cells[1]}{saved:16.2f}{base / saved:7.2f}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--width", type=int, default=512, help="channels of the hidden states; InternVL3-8B: 3584")
    made.add_argument("--layers", type=int, default=29, help="hidden states; InternVL3: 29")
    made.add_argument("--tokens", type=int, default=128, help="valid tokens of the batch")
    return made.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    introduce(options)
    dtype = getattr(torch, options.dtype)
    rows = variants(options.width, options.layers, dtype, options.device)
    x = torch.randn(options.tokens, options.layers, options.width, device=options.device, dtype=dtype)
    print(
        f"sizes    C={options.width} n={options.layers} tokens={options.tokens} {options.dtype}, "
        f"heads={choose_heads(options.width, None)}; median (min) of {options.repeats}; x: first row / this row"
    )
    print(f"equality largest relative difference between rows {check_equal(rows, x):.1e}")
    report(rows, x, options.repeats)


if __name__ == "__main__":
    main()
