"""A training that goes on where it was stopped: position, time budget, log and checkpoints."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from subjectgen.core import CheckpointError
from subjectgen.toybox.detailed.pretraining import checkpoint
from subjectgen.toybox.detailed.pretraining.checkpoint import Part
from subjectgen.toybox.world import Draw

COMMAND = "python -m subjectgen.toybox.detailed.pretraining"


class Run:
    """Counts steps, stops within the time budget, and writes a checkpoint every minute.

    The same command goes on from the last checkpoint, also after ``kill -9``. What a step does follows from seed and
    step alone, so the end is the same bit for bit (on one machine with one number of threads).
    """

    def __init__(
        self,
        out: Path,
        name: str,
        parts: Mapping[str, Part],
        *,
        steps: int,
        minutes: float,
        seed: int,
        settings: Mapping[str, Any],
        save_every: float = 60.0,
        log_every: float = 30.0,
    ) -> None:
        self.steps, self.seed, self.step, self.samples = steps, seed, 0, 0
        self._parts, self._settings = parts, {"seed": seed, **settings}
        self._checkpoint = out / "checkpoints" / f"{name}.safetensors"
        self._log = out / "logs" / f"{name}.jsonl"
        self._spent, self._started = 0.0, time.monotonic()
        self._budget, self._save_every, self._log_every = minutes * 60, save_every, log_every
        self._sums: dict[str, float] = {}
        self._summed = 0
        if self._checkpoint.exists():
            self._go_on()
        else:
            self._begin(out, minutes)

    @property
    def finished(self) -> bool:
        """Whether all steps were made."""
        return self.step >= self.steps

    def draw(self, step: int) -> Draw:
        """The random choices of one step."""
        return Draw((self.seed * 1_000_003 + 1) * 1_000_000 + step)

    def remaining(self) -> Iterator[int]:
        """Numbers of the steps to make now; after each one it counts, logs and saves."""
        saved = logged = time.monotonic()
        while not self.finished and time.monotonic() - self._started < self._budget:
            yield self.step
            self.step += 1
            now = time.monotonic()
            if now - logged > self._log_every:
                self._write_means()
                logged = now
            if now - saved > self._save_every:
                self.save()
                saved = now
        self._write_means()
        self.save()

    def add(self, samples: int, **losses: torch.Tensor) -> None:
        """Count the pictures of a step and its losses."""
        self.samples += samples
        self._summed += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def save(self) -> None:
        """Write a checkpoint now."""
        position = {"step": self.step, "samples": self.samples, "seconds": self._seconds(), "settings": self._settings}
        checkpoint.save(self._checkpoint, self._parts, position)

    def write(self, **values: Any) -> None:
        """Write one line of the log, and print it."""
        line = {"step": self.step, "samples": self.samples, "seconds": round(self._seconds(), 1)}
        line |= {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def _seconds(self) -> float:
        """Wall time of all calls together, as far as checkpoints know."""
        return self._spent + time.monotonic() - self._started

    def _begin(self, out: Path, minutes: float) -> None:
        given = ["OUT" if argument == str(out) else argument for argument in sys.argv[1:]]  # no one else's folder
        machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        header = {"command": " ".join([COMMAND, *given]), "machine": machine, "minutes": minutes, **self._settings}
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def _go_on(self) -> None:
        position = checkpoint.load(self._checkpoint, self._parts)
        if position["settings"] != self._settings:
            raise CheckpointError(
                f"{self._checkpoint}: made with {position['settings']}; got {self._settings}; expected the same, or "
                "another OUT"
            )
        self.step, self.samples, self._spent = position["step"], position["samples"], position["seconds"]
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        # Lines of steps after the checkpoint are made again.
        kept = [line for line in lines if json.loads(line).get("step", 0) <= self.step]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self.write(resumed=True)

    def _write_means(self) -> None:
        if self._summed:
            self.write(**{name: total / self._summed for name, total in self._sums.items()})
        self._sums, self._summed = {}, 0
