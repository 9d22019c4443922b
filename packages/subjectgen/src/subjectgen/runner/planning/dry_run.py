"""Run real code without computing: integers stay real, what weights touch has a shape alone.

Parts are built on torch's ``meta`` device. Code around them asks which tokens are text, how long a row is, or whether
a mask is full; such questions need values. So small tensors that come from the input stay real on the CPU, and only
what meets a weight loses its values.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from subjectgen.runner.planning.repeats import Tally, repeats_counted, storage_of

_META, _CPU = torch.device("meta"), torch.device("cpu")
_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


@dataclass
class Cost:
    """What a run took."""

    flops: int = 0
    """Floating-point operations as torch counts them: matrix products and convolutions, 2 per multiplication."""
    peak_bytes: int = 0
    """Most memory of results alive at one moment; weights and inputs are not in it."""
    live_bytes: int = 0
    """Memory of results that are still alive at the end."""
    saved_bytes: int = 0
    """Memory that the backward pass keeps; weights are not in it."""


@contextmanager
def dry_run(*modules: nn.Module, forward_only: bool = False, skip_repeats: bool = True) -> Iterator[Cost]:
    """Run what is inside on shapes; the cost is filled in at the end.

    Args:
        modules: Parts on the meta device; their weights are not counted as activations.
        forward_only: Gradients are wanted, but no backward pass is run inside: equal blocks need to run only once.
            Without gradients that is so anyway.
        skip_repeats: Run one of equal blocks and count the others; the cost is the same.
    """
    cost, weights = Cost(), {storage_of(p) for m in modules for p in (*m.parameters(), *m.buffers())}
    tally = Tally(FlopCounterMode(display=False))

    def keep(tensor: Tensor) -> Tensor:
        if tensor.device.type == "meta" and storage_of(tensor) not in weights:
            tally.saved[storage_of(tensor)] = tensor
        return tensor

    with ExitStack() as stack:
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        for mode in (tally.counter, _Shapes(tally), _FusedAttention()):
            stack.enter_context(mode)
        if skip_repeats and (forward_only or not torch.is_grad_enabled()):
            stack.enter_context(repeats_counted(modules, tally))
        yield cost
    cost.flops, cost.peak_bytes, cost.live_bytes = tally.flops, tally.peak, tally.live
    cost.saved_bytes = tally.saved_bytes


class _Shapes(TorchDispatchMode):
    """Nothing real becomes a shape by itself, an operation on both kinds gives one; keeps count of live memory."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tally = tally
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        shapes = [tensor for tensor in tensors if tensor.device.type == "meta"]
        if "device" in kwargs or "new_" in func._schema.name:
            kwargs = {**kwargs, "device": _place(func, args, kwargs, tensors, shapes)}
        if shapes and len(shapes) < len(tensors):
            if func in _INDEXING:
                args = (args[0], _places(args[1]), *args[2:])
            args, kwargs = tree_map(_shape, (args, kwargs))
        result = func(*args, **kwargs)
        if not shapes and not isinstance(result, Tensor):
            return result
        given = {storage_of(tensor) for tensor in shapes}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == "meta" and storage_of(leaf) not in given | self._known:
                self._track(leaf)
        return result

    def _track(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), storage_of(tensor)
        size = storage.nbytes()
        self._known.add(key)
        self._tally.live += size
        self._tally.peak = max(self._tally.peak, self._tally.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._tally.live -= size


def _place(func: Any, args: Any, kwargs: Any, tensors: list[Tensor], shapes: list[Tensor]) -> torch.device:
    """Where a result goes that the code asks to be on some device, or beside a shape."""
    name = func._schema.name
    if "_to_copy" in name:
        return _META if shapes else _CPU
    asked = kwargs.get("device")
    on_meta = _is_meta(asked) if asked is not None else bool(shapes)
    return _META if on_meta and _makes_floats(name, args, kwargs, tensors) else _CPU


def _is_meta(device: Any) -> bool:
    return torch.device(device).type == "meta"


def _makes_floats(name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
    """Whether a factory makes floating-point numbers, which may be shapes; integers and masks stay real."""
    dtype = kwargs.get("dtype")
    if dtype is None and "arange" in name:
        return any(isinstance(value, float) for value in args)
    if dtype is None and "full" in name:
        return isinstance(args[-1], float)
    return dtype.is_floating_point if dtype is not None else all(t.is_floating_point() for t in tensors[:1])


def _places(indices: Any) -> list[Tensor | None]:
    """A mask that chooses, as the places it chooses: their number is known only from its values."""
    places: list[Tensor | None] = []
    for index in indices:
        mask = index is not None and index.dtype == torch.bool and index.device.type != "meta"
        places.extend(index.nonzero().unbind(1) if mask else [index])
    return places


def _shape(leaf: Any) -> Any:
    return leaf.to(_META) if isinstance(leaf, Tensor) and leaf.device.type != "meta" else leaf


class _FusedAttention(TorchFunctionMode):
    """Attention as every GPU kernel does it: no matrix of queries times keys is kept."""

    @no_type_check  # it sees every function
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
            if query.device.type == "meta":
                return _attention(query, key, value)
        return func(*args, **kwargs)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    groups = query.shape[-3] // key.shape[-3]
    if groups > 1:  # grouped queries: as many products as with one key head each
        key, value = (part.repeat_interleave(groups, dim=-3) for part in (key, value))
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
