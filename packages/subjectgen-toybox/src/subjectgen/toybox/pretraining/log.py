"""The training log that is shipped beside the weights: command, machine, seed, and a line per interval."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console


class Log:
    """Collects means over an interval and writes them as JSON lines; keeps the time budget."""

    def __init__(self, out: Path, name: str, *, minutes: float, settings: dict[str, Any], every: float = 20.0) -> None:
        self.path = out / "logs" / f"{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.step = self.samples = 0
        self._started = self._written = time.monotonic()
        self._budget, self._every = minutes * 60, every
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0
        self._console = Console()
        given = ["OUT" if argument == str(out) else argument for argument in sys.argv[1:]]  # no one else's folder
        command = " ".join(["python -m subjectgen.toybox.pretraining", *given])
        machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        if torch.cuda.is_available():
            machine["accelerator"] = torch.cuda.get_device_name()
        self.path.write_text(
            json.dumps({"command": command, "machine": machine, "minutes": minutes, **settings}) + "\n"
        )

    def progress(self) -> float:
        """Share of the time budget that is used."""
        return (time.monotonic() - self._started) / self._budget

    def add(self, *, samples: int, **losses: torch.Tensor) -> None:
        """Count one step with its losses."""
        self.step += 1
        self.samples += samples
        self._count += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach().float().cpu()
        if time.monotonic() - self._written > self._every:
            self._flush()

    def write(self, **values: Any) -> None:
        """Write one line now."""
        line = {"step": self.step, "samples": self.samples, "seconds": round(time.monotonic() - self._started, 1)}
        line |= {name: round(v, 5) if isinstance(v, float) else v for name, v in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._console.print(line)

    def close(self, **values: Any) -> None:
        """Write the last interval and the closing facts."""
        self._flush()
        self.write(finished=True, **values)

    def _flush(self) -> None:
        if self._count:
            self.write(**{name: float(total / self._count) for name, total in self._sums.items()})
        self._sums, self._count, self._written = {}, 0, time.monotonic()
