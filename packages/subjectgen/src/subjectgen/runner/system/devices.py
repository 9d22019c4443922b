"""Which device to run on."""

from __future__ import annotations

import torch

from subjectgen.core import InputError


def chosen_device(name: str | None) -> torch.device:
    """The named device, or CUDA where there is one, else the CPU.

    Raises:
        InputError: A device that torch does not know or this machine does not have.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device: got {name!r}; expected cpu, or cuda on a machine with one ({reason})") from None
    return device
