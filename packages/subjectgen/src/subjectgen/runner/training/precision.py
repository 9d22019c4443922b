"""The precision of training, by accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from subjectgen.core import InputError
from subjectgen.runner.system.settings import TrainingSettings


def accelerator(settings: TrainingSettings, device: torch.device) -> Accelerator:
    """Autocast and backward as the settings say.

    Raises:
        InputError: Launched as several processes.
    """
    AcceleratorState._reset_state()  # it is one per process and would keep an earlier trainer's precision
    found = Accelerator(mixed_precision=settings.mixed_precision, cpu=device.type == "cpu")
    if found.num_processes > 1:
        raise InputError(
            f"training: launched with {found.num_processes} processes; expected one, for all of them "
            "would train on the same samples and write the same folder"
        )
    return found
