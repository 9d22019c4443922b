"""Whether everything is on its device when it is used, without a second device.

Tensors here say that they are elsewhere, hold a plain tensor inside, and are computed by it. As on CUDA, an operation
on tensors of two places is refused, but for copies, single numbers, and indices from the CPU.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees, backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Request
from subjectgen.runner.system.experiment import Experiment

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch has no devices made in Python", allow_module_level=True)

PLACE = "elsewhere:0"
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


class Elsewhere(Tensor):
    """A tensor that says it is on another device."""

    @staticmethod
    def __new__(cls, inner: Tensor):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=torch.device(PLACE))
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), options=None):
        return run(operation, arguments, options or {})

    def __repr__(self, **_: object) -> str:
        return f"Elsewhere({self.inner})"

    def tolist(self):
        return self.inner.tolist()

    def new_tensor(self, values, dtype=None):
        return Elsewhere(self.inner.new_tensor(values, dtype=dtype or self.dtype))


class Machine(TorchDispatchMode):
    """Makes new tensors elsewhere where they are asked for there."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        return run(operation, arguments, options or {})


def run(operation, arguments, options):
    given = [one for one in trees.tree_leaves((arguments, options)) if isinstance(one, Tensor)]
    places = {isinstance(one, Elsewhere) for one in given if one.dim()}
    indexed = operation in INDEXING and isinstance(given[0], Elsewhere)
    if len(places) > 1 and operation not in COPIES and not indexed:
        raise RuntimeError(f"{operation}: tensors on two devices, {[(one.device, one.shape) for one in given]}")
    known = {id(one.inner): one for one in given if isinstance(one, Elsewhere)}
    there = any(isinstance(one, Elsewhere) for one in given[: 1 if operation in COPIES else None])
    arguments, options = trees.tree_map_only(Elsewhere, lambda one: one.inner, (arguments, dict(options)))
    if options.get("device") is not None:
        there = options["device"].type == "elsewhere"
        options["device"] = torch.device("cpu")
    found = operation(*arguments, **options)
    if not there:
        return found
    return trees.tree_map_only(Tensor, lambda one: known[id(one)] if id(one) in known else Elsewhere(one), found)


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Another device, for one test."""
    if not hasattr(torch, "elsewhere"):
        backend_registration._setup_privateuseone_for_python_backend("elsewhere")
    # for good: once there is such a device, torch asks these of it in other tests too
    torch.elsewhere.get_amp_supported_dtype = lambda: [torch.bfloat16]
    torch.elsewhere.is_autocast_enabled = lambda: False
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with Machine():
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def images(path: Path, toys: list, device: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its trainable parts are random
        pipeline = SubjectPipeline.from_experiment(Experiment.read(path), device=device)
    with torch.no_grad():
        for parameter in pipeline.system.trainable().values():  # the same on both devices
            parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view(parameter.shape))
    plain = torch.tensor

    def tensor(values, *, device=None, **options):
        made = plain(values, **options)
        return Elsewhere(made) if device is not None and torch.device(device).type == "elsewhere" else made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "tensor", tensor)
        return torch.stack(pipeline.generate(Request.of(toys[:2], [1, 2], batch_size=1, steps=3)).tensors)


@pytest.mark.parametrize(
    ("memory", "attention"),
    [
        ({"offload": "none", "release_modulation": True}, "full"),
        ({"offload": "encoders"}, "full"),
        ({"offload": "encoders", "release_modulation": True}, "isolated"),
    ],
    ids=str,
)
def test_everything_is_where_it_is_used(write, toys, elsewhere, memory: dict, attention: str) -> None:
    guided = {"backbone": {"reference_attention": attention}, "schedule": {"guidance": {"true_cfg": 2.5}}}
    there = images(write({**guided, "memory": {**memory, "dtype": "float32"}}), toys, PLACE)
    assert type(there) is Tensor
    torch.testing.assert_close(there, images(write(guided), toys, "cpu"), atol=1e-4, rtol=0)


def test_two_devices_are_noticed(elsewhere) -> None:
    layer, x = nn.Linear(3, 3).to(PLACE), torch.ones(2, 3)
    assert layer(x.to(PLACE)).device == torch.device(PLACE)
    with pytest.raises(RuntimeError, match="tensors on two devices"):
        layer(x)
