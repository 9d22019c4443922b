"""What is said when memory runs out: which option to turn on next, of those that the experiment's parts have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from subjectgen.core import InputError
from subjectgen.core.guard import out_of_memory
from subjectgen.runner.system.experiment import Experiment


@contextmanager
def explained_memory(
    experiment: Experiment, *, device: torch.device, training: bool = False, batch_size: int = 1
) -> Iterator[None]:
    """Turn running out of memory into one message.

    Args:
        experiment: What runs inside.
        device: Where it runs.
        training: Whether it trains; then the batch is the experiment's.
        batch_size: Images generated at once.

    Raises:
        InputError: Where torch ran out of memory, on whatever device.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        choices = training_choices(experiment) if training else generating_choices(experiment, device, batch_size)
        advice = choices[0] if choices else "use a smaller image, or a device with more memory"
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"out of memory ({reason}); next: {advice} (`subjectgen plan {experiment.loaded.file}` counts what each "
            "option needs)"
        ) from None


def generating_choices(experiment: Experiment, device: torch.device, batch_size: int) -> list[str]:
    """Options for generating that are not on yet, the cheapest first. On the CPU nothing can leave."""
    memory, away = experiment.settings.memory, device.type != "cpu"
    precision = memory.dtype or ("bfloat16" if away else _option(experiment, "dtype"))
    choices = {
        f"--batch-size {max(batch_size // 2, 1)}": batch_size > 1,
        "--set memory.dtype=bfloat16": precision == "float32",
        "--set memory.offload=encoders": away and memory.offload == "none",
        "--set memory.release_modulation=true": away and not memory.release_modulation and memory.offload != "group",
        "--set memory.weights=int8": memory.weights == "none",
        "--set memory.weights=int4": memory.weights == "int8" and memory.offload != "group",
        "--set memory.offload=group --set memory.release_modulation=false --set memory.weights=none": away
        and memory.offload != "group",
    }
    return [choice for choice, possible in choices.items() if possible]


def training_choices(experiment: Experiment) -> list[str]:
    """Options for training that are not on yet, the cheapest first; only those that the backbone has."""
    training = experiment.settings.training
    rows = (training.micro_batch or training.batch_size) if training else 1
    choices = {
        "--set backbone.gradient_checkpointing=true": _option(experiment, "gradient_checkpointing") not in (None, True),
        "--set training.mixed_precision=bf16": training is not None and training.mixed_precision == "no",
        "--set backbone.dtype=bfloat16": _option(experiment, "dtype") == "float32",
        f"--set training.micro_batch={max(rows // 2, 1)}": rows > 1,
    }
    return [choice for choice, possible in choices.items() if possible]


def _option(experiment: Experiment, name: str) -> Any:
    """The backbone's option; ``None`` if it has no such option."""
    return getattr(experiment.parts.backbone.config, name, None)


def is_out_of_memory(error: BaseException | None) -> bool:
    """CUDA has a class of its own, the CPU's allocator a sentence; a part that failed to build has it as its cause."""
    if error is None:
        return False
    here = out_of_memory(error) or "can't allocate memory" in str(error)
    return here or is_out_of_memory(error.__cause__)
