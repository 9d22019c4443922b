"""One process or many, as accelerate found them: the same step everywhere, and what only many need.

DDP copies what is trained to every process; FSDP2 (``accelerate launch --use_fsdp --fsdp_version 2``) cuts it, and the
frozen base with it, into one piece per process. Either way gradients are means over processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from subjectgen.core import InputError
from subjectgen.runner.system.settings import TrainingSettings


class Engine:
    """Processes, devices and precision of a training."""

    def __init__(self, settings: TrainingSettings, device: torch.device | str) -> None:
        """Join the other processes, if this one was launched with others.

        Raises:
            InputError: A way of cutting models that is not supported, or fewer rows than processes.
        """
        AcceleratorState._reset_state()  # it is one per process and would keep an earlier trainer's precision
        self.accelerator = Accelerator(mixed_precision=settings.mixed_precision, cpu=torch.device(device).type == "cpu")
        self.processes, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.sharded = _sharded()
        if settings.batch_size < self.processes:
            raise InputError(
                f"training.batch_size: {settings.batch_size} rows for {self.processes} processes; expected one row for "
                "each of them at least"
            )

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def on_cuda(self) -> bool:
        """Whether there is memory of a card to speak of."""
        return bool(self.accelerator.device.type == "cuda")

    def device(self, wanted: torch.device) -> torch.device:
        """Of this process: its own accelerator where there are several."""
        return self.accelerator.device if self.processes > 1 else wanted

    def wrap(self, module: nn.Module, *, backbone: nn.Module) -> nn.Module:
        """The module as this engine runs it; call it in place of the module.

        ``backbone``: the part of it whose blocks are cut one by one, where models are cut.
        """
        if self.processes == 1:
            return module
        if self.sharded:
            every = getattr(backbone, "gradient_checkpointing", False)
            if isinstance(every, int) and not isinstance(every, bool):
                raise InputError(
                    f"backbone.gradient_checkpointing: {every}: blocks that are cut are all alike; expected true, "
                    "selective or false with FSDP2"
                )
            return _cut(module, backbone)
        ids = [self.accelerator.device] if self.accelerator.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)

    def view(self, module: nn.Module) -> nn.Module | None:
        """A wrapped module for looking at it outside of steps; ``None`` in a process that has nothing to do there.

        Where models are cut, all processes must do the same with it.
        """
        if self.sharded:
            return module
        if not self.main:
            return None
        return module.module if isinstance(module, DistributedDataParallel) else module

    def put_back(self, module: nn.Module) -> None:
        """After a look: a forward pass without a backward one leaves the root's parameters whole, and who asks for
        parameters must get the pieces.
        """
        for part in module.modules() if self.sharded else ():
            if isinstance(part, FSDPModule):
                part.reshard()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        return self.accelerator.autocast()

    @contextmanager
    def pass_of(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """Around forward and backward of one of several passes; gradients meet in the last."""
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(last)
            yield
            return
        with module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext():
            yield

    def largest(self, *numbers: float) -> tuple[float, ...]:
        """The largest of each number over all processes, which all must ask."""
        if self.processes == 1:
            return numbers
        found = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return tuple(found.tolist())

    def together(self, values: Sequence[Any]) -> list[Any]:
        """Values of all processes, which all must ask."""
        return list(values) if self.processes == 1 else list(gather_object(list(values)))


def leave(engine: Engine, *, together: bool) -> None:
    """Give up the connection to the other processes: one that ends with it open may be aborted on its way out.

    ``together``: wait for the others first; not where one of them may have failed.
    """
    if engine.processes > 1 and distributed.is_initialized():
        if together:
            engine.accelerator.wait_for_everyone()
        distributed.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be cut into pieces; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's piece of a whole tensor, where ``like`` is cut; on its device, in its dtype."""
    tensor = tensor.to(like.device, like.dtype)
    if isinstance(like, DTensor):
        return distribute_tensor(tensor, like.device_mesh, like.placements)
    return tensor


def _sharded() -> bool:
    """Whether accelerate was told to cut models.

    Raises:
        InputError: In a way other than FSDP2.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise InputError("training: launched with DeepSpeed; expected DDP, or FSDP2: --use_fsdp --fsdp_version 2")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError("training: launched with FSDP1; expected FSDP2: --use_fsdp --fsdp_version 2")
    return True


def _cut(module: nn.Module, backbone: nn.Module) -> nn.Module:
    """FSDP2: each block of the backbone is a unit, and all the rest is one."""
    lists = [one for one in backbone.modules() if isinstance(one, nn.ModuleList)]
    nested = {id(inner) for one in lists for block in one for inner in block.modules() if inner is not block}
    for block in (block for one in lists for block in one if _holds(block) and id(block) not in nested):
        block.register_forward_hook(_touch)
        fully_shard(block)
    module.register_forward_hook(_touch)
    fully_shard(module)
    return module


def _holds(block: nn.Module) -> bool:
    """Blocks with parameters; those that the root calls in other ways than as modules would never be gathered."""
    return any(True for _ in block.parameters()) and type(block).forward is not nn.Module.forward


def _touch(module: nn.Module, _arguments: Any, output: Any) -> Any:
    """Make the output depend on every trained parameter, with factor 0.

    A pass may use other parameters in one process than in another (a branch that is hidden), and processes that
    exchange other gradients than their neighbours wait for ever.
    """
    parameters = [p for p in module.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if not torch.is_grad_enabled() or not parameters:
        return output
    nothing = sum(parameter.flatten()[:1].sum() * 0.0 for parameter in parameters)
    if isinstance(output, Tensor):
        return output + nothing
    first, *others = output
    return (first + nothing, *others)
