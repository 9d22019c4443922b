"""Blocks that are alike cost alike: one of them runs, the others are counted.

Large models are lists of equal blocks. During a run on shapes a block's cost depends on its class, its sizes and what
it is given, nothing else; so a block whose like has run only hands out results of the same shapes, and its cost is
added. Only blocks of diffusers and transformers are left out in this way: a third party's blocks always run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from types import NoneType
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

_LIBRARIES = ("diffusers", "transformers")
_SCALARS = (bool, int, float, str, NoneType)
_LEAVES = (*_SCALARS, torch.dtype, torch.device)


@dataclass
class Tally:
    """What a run has taken so far."""

    counter: FlopCounterMode
    skipped_flops: int = 0
    live: int = 0
    """Bytes of results alive now."""
    peak: int = 0
    """Most of them so far."""
    saved: dict[int, Tensor] = field(default_factory=dict)
    """Tensors that the backward pass keeps, by storage."""
    skipped_saved: int = 0
    """Bytes that blocks which were left out would have kept."""

    @property
    def flops(self) -> int:
        """Operations so far."""
        return int(self.counter.get_total_flops()) + self.skipped_flops

    @property
    def saved_bytes(self) -> int:
        """Bytes that the backward pass keeps."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.saved.values()) + self.skipped_saved


@dataclass(frozen=True)
class _Result:
    """One tensor that a block returned: a given one, or a part of a new storage."""

    given: int | None = None
    storage: int = 0
    """Which of the block's new storages."""
    layout: tuple[Any, ...] = ()
    """Arguments of ``as_strided``."""


@dataclass(frozen=True)
class _Run:
    """What a block took, and how to hand out its results again."""

    flops: int
    peak: int
    """Above what was alive when it began."""
    stays: int
    """Alive after it beside its results."""
    saved: int
    """Newly kept for the backward pass, without what the block was given and what it returned."""
    saved_given: tuple[int, ...]
    results: tuple[Any, ...]
    tree: Any
    storages: tuple[tuple[int, torch.dtype, bool, bool], ...]
    """Of new results: bytes, type, whether gradients reach it, whether it is kept."""


@contextmanager
def repeats_counted(modules: Sequence[nn.Module], tally: Tally) -> Iterator[None]:
    """Inside, blocks in lists of these modules run once for each kind of block and input."""
    known: dict[Any, _Run | None] = {}
    blocks = {id(block): block for module in modules for block in _blocks(module)}
    for block in blocks.values():
        block.forward = _counted(block, tally, known)
    try:
        yield
    finally:
        for block in blocks.values():
            del block.forward


@no_type_check  # it is asked for every tensor of every operation
def storage_of(tensor: Tensor) -> int:
    """What tensors share that are views of each other; an address, so only while one of them is alive."""
    return tensor.untyped_storage()._cdata


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for blocks in module.modules():
        if isinstance(blocks, nn.ModuleList) and len(blocks) > 2:
            for block in blocks:
                ours = type(block).__module__.partition(".")[0] in _LIBRARIES and "forward" not in vars(block)
                if ours and any(True for _ in block.children()):
                    yield block


def _counted(block: nn.Module, tally: Tally, known: dict[Any, _Run | None]) -> Callable[..., Any]:
    forward, kind = block.forward, _kind(block)

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        given, tree = tree_flatten((args, kwargs))
        key = _key(given, tree, tally)
        if key is None or _observed(block):
            return forward(*args, **kwargs)
        key = (kind, torch.is_grad_enabled(), *key)
        like = known.get(key)
        if like is not None:
            return _handed_out(like, given, tally)
        result, known[key] = _measured(forward, args, kwargs, tally)
        return result

    return run


def _kind(block: nn.Module) -> Any:
    """Class, sizes and plain settings of a block and of all in it. A block's place among its like is no setting."""
    described: list[Any] = []
    for name, module in block.named_modules():
        plain = (item for item in vars(module).items() if isinstance(item[1], _SCALARS) and item[0] != "layer_idx")
        tensors = ((key, t) for key, t in (*module._parameters.items(), *module._buffers.items()) if t is not None)
        sizes = ((key, t.shape, t.dtype, t.device.type, t.requires_grad) for key, t in tensors)
        described.append((name, type(module), tuple((key, repr(value)) for key, value in plain), tuple(sizes)))
    return tuple(described)


def _observed(block: nn.Module) -> bool:
    """Whether someone looks into the block while it runs; transformers' hooks for attention weights find none."""
    inner = (module for module in block.modules() if module is not block)
    hooks = (hook for m in inner for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values()))
    return any(getattr(hook, "__module__", "") != "transformers.utils.output_capturing" for hook in hooks)


def _key(given: list[Any], tree: Any, tally: Tally) -> tuple[Any, ...] | None:
    """What is given, by shape and by which tensors share memory; values count where there are values."""
    places: dict[int, int] = {}
    described: list[Any] = []
    for leaf in given:
        if isinstance(leaf, Tensor) and leaf.device.type == "meta":
            place = places.setdefault(storage_of(leaf), len(places))
            layout = (leaf.shape, leaf.stride(), leaf.storage_offset(), leaf.untyped_storage().nbytes())
            described.append((place, *layout, leaf.dtype, leaf.requires_grad, storage_of(leaf) in tally.saved))
        elif isinstance(leaf, Tensor):
            described.append((leaf.dtype, leaf.shape, leaf.numpy(force=True).tobytes()))
        elif isinstance(leaf, _LEAVES):
            described.append((type(leaf), leaf))
        else:
            return None
    return str(tree), tuple(described)


def _measured(forward: Any, args: Any, kwargs: Any, tally: Tally) -> tuple[Any, _Run | None]:
    """Run a block; nothing is noted of one that changes what it is given."""
    given, tree = tree_flatten((args, kwargs))
    versions = [leaf._version for leaf in given if isinstance(leaf, Tensor)]
    flops, live, peak, kept, skipped = tally.flops, tally.live, tally.peak, set(tally.saved), tally.skipped_saved
    tally.peak = live
    result = forward(*args, **kwargs)
    highest, tally.peak = tally.peak - live, max(tally.peak, peak)
    after, tree_after = tree_flatten((args, kwargs))
    same = tree_after == tree and all(one is other for one, other in zip(after, given, strict=True))
    if not same or versions != [leaf._version for leaf in given if isinstance(leaf, Tensor)]:
        return result, None
    inputs = {storage_of(leaf): number for number, leaf in enumerate(given) if isinstance(leaf, Tensor)}
    noted = _noted(result, given, inputs, tally)
    if noted is None:
        return result, None
    results, result_tree, fresh, storages = noted
    new = tally.saved.keys() - kept
    own = sum(tally.saved[key].untyped_storage().nbytes() for key in new if key not in inputs and key not in fresh)
    return result, _Run(
        flops=tally.flops - flops,
        peak=highest,
        stays=tally.live - live - sum(size for size, *_ in storages),
        saved=own + tally.skipped_saved - skipped,
        saved_given=tuple(inputs[key] for key in new if key in inputs),
        results=results,
        tree=result_tree,
        storages=storages,
    )


def _noted(result: Any, given: list[Any], inputs: dict[int, int], tally: Tally) -> Any:
    """How to make results like these; ``None`` where that cannot be told."""
    leaves, tree = tree_flatten(result)
    by_identity = {id(leaf): number for number, leaf in enumerate(given) if isinstance(leaf, Tensor)}
    fresh: dict[int, int] = {}
    storages, results = [], []
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            results.append(leaf)
            if not isinstance(leaf, _LEAVES):
                return None
        elif id(leaf) in by_identity:
            results.append(_Result(given=by_identity[id(leaf)]))
        elif leaf.device.type != "meta" or storage_of(leaf) in inputs:
            return None
        else:
            key = storage_of(leaf)
            if key not in fresh:
                fresh[key] = len(fresh)
                storages.append((leaf.untyped_storage().nbytes(), leaf.dtype, leaf.requires_grad, key in tally.saved))
            results.append(
                _Result(storage=fresh[key], layout=(tuple(leaf.shape), leaf.stride(), leaf.storage_offset()))
            )
    return tuple(results), tree, fresh, tuple(storages)


def _handed_out(like: _Run, given: list[Any], tally: Tally) -> Any:
    tally.skipped_flops += like.flops
    tally.skipped_saved += like.saved
    tally.peak = max(tally.peak, tally.live + like.peak)
    tally.live += like.stays
    for number in like.saved_given:
        tally.saved[storage_of(given[number])] = given[number]
    made = []
    for size, dtype, needs_gradient, kept in like.storages:
        source = torch.empty(0, dtype=dtype, device="meta", requires_grad=needs_gradient)
        storage = _NewResult.apply(source, size // dtype.itemsize)  # type: ignore[no-untyped-call]
        made.append(storage)
        if kept:
            tally.saved[storage_of(storage)] = storage
    leaves = [_again(leaf, given, made) if isinstance(leaf, _Result) else leaf for leaf in like.results]
    return tree_unflatten(leaves, like.tree)


def _again(result: _Result, given: list[Any], made: list[Tensor]) -> Tensor:
    tensor: Tensor = given[result.given] if result.given is not None else made[result.storage]
    return tensor if result.given is not None else tensor.as_strided(*result.layout)


class _NewResult(torch.autograd.Function):
    """A tensor that gradients seem to reach; unlike one that asks for gradients itself, no graph keeps it alive."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, count: int) -> Tensor:
        return source.new_empty(count)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise AssertionError("a backward pass reached a block that was left out; expected forward_only=False")
