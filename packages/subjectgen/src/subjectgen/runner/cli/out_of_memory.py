"""What is said when memory runs out: which option to turn on next, and what ``subjectgen plan`` expects of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from subjectgen.core import InputError
from subjectgen.core.config import merge
from subjectgen.core.guard import out_of_memory
from subjectgen.core.plugins import Plugins
from subjectgen.runner.experiment import Experiment, ExperimentSettings


@contextmanager
def explained_memory(
    experiment: Experiment,
    plugins: Plugins,
    *,
    device: torch.device,
    training: bool = False,
    batch_size: int = 1,
    size: tuple[int, int] | None = None,
) -> Iterator[None]:
    """Turn running out of memory into one message.

    Args:
        experiment: What runs inside.
        plugins: Where its components are found.
        device: Where it runs.
        training: Whether it trains; then the batch is the experiment's.
        batch_size: Images generated at once.
        size: Their height and width, where they are not the experiment's.

    Raises:
        InputError: Where torch ran out of memory, on whatever device.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        settings = experiment.settings
        choices = training_choices(settings) if training else generating_choices(settings, device, batch_size)
        advice = choices[0] if choices else "use a smaller image, or a device with more memory"
        expected = expectation(experiment, plugins, advice, training=training, batch_size=batch_size, size=size)
        reason = str(error).partition("\n")[0]
        raise InputError(f"out of memory ({reason}); next: {advice} ({expected})") from None


def generating_choices(settings: ExperimentSettings, device: torch.device, batch_size: int) -> list[str]:
    """Options for generating that are not on yet, the cheapest first. On the CPU nothing can leave."""
    memory, away = settings.memory, device.type != "cpu"
    precision = memory.dtype or ("bfloat16" if away else settings.backbone.get("dtype", "float32"))
    choices = {
        f"--batch-size {max(batch_size // 2, 1)}": batch_size > 1,
        "--set memory.dtype=bfloat16": precision == "float32",
        "--set memory.offload=mllm": away and memory.offload == "none",
        "--set memory.release_modulation=true": away and not memory.release_modulation and memory.offload != "group",
        "--set memory.weights=int8": memory.weights == "none",
        "--set memory.weights=int4": memory.weights == "int8" and memory.offload != "group",
        "--set memory.offload=group --set memory.release_modulation=false --set memory.weights=none": away
        and memory.offload != "group",
    }
    return [choice for choice, possible in choices.items() if possible]


def training_choices(settings: ExperimentSettings) -> list[str]:
    """Options for training that are not on yet, the cheapest first; only what the experiment's parts say they have."""
    training, backbone = settings.training, settings.backbone
    choices = {
        "--set backbone.gradient_checkpointing=true": backbone.get("gradient_checkpointing") is not True,
        "--set training.mixed_precision=bf16": training is not None and training.mixed_precision == "no",
        "--set backbone.dtype=bfloat16": backbone.get("dtype", "float32") == "float32",
        f"--set training.batch_size={max(training.batch_size // 2, 1) if training else 1}": training is not None
        and training.batch_size > 1,
    }
    return [choice for choice, possible in choices.items() if possible]


def expectation(
    experiment: Experiment,
    plugins: Plugins,
    advice: str,
    *,
    training: bool,
    batch_size: int,
    size: tuple[int, int] | None,
) -> str:
    """What the plan expects as things are, and with the advice, or else with what needs least."""
    from subjectgen.runner.planning.plan import Request, make_plan

    if size is not None:
        image = {"image": {"height": size[0], "width": size[1]}}
        experiment = Experiment(replace(experiment.loaded, values=merge(experiment.loaded.values, image)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            memory = make_plan(experiment, plugins, Request(batch=batch_size))["memory"]
        needs = _training_needs(experiment, memory) if training else _generating_needs(memory)
    except Exception:  # a part of unknown size, or no memory even for this; the advice stands without it
        return "`subjectgen plan` counts what each option needs"
    best = advice if advice in needs else min(needs, key=lambda options: needs[options])
    said = f"`subjectgen plan` expects {needs['']:.3g} GB as it is"
    return f"{said}, {needs[best]:.3g} GB with {best}" if needs[best] < needs[""] else said


def _generating_needs(memory: dict[str, Any]) -> dict[str, float]:
    return {row["options"]: row["bytes"] / 1e9 for row in memory["inference"]}


def _training_needs(experiment: Experiment, memory: dict[str, Any]) -> dict[str, float]:
    training = experiment.settings.training
    batch = training.batch_size if training else 1
    return {row["options"]: (row["static_bytes"] + batch * row["sample_bytes"]) / 1e9 for row in memory["training"]}


def is_out_of_memory(error: BaseException | None) -> bool:
    """CUDA has a class of its own, the CPU's allocator a sentence; a part that failed to build has it as its cause."""
    if error is None:
        return False
    here = out_of_memory(error) or "can't allocate memory" in str(error)
    return here or is_out_of_memory(error.__cause__)
