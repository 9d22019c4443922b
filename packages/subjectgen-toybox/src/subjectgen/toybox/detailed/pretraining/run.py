"""A training that goes on where it was stopped: position, time budget, log and checkpoints."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from subjectgen.core import CheckpointError
from subjectgen.toybox.detailed.pretraining import checkpoint
from subjectgen.toybox.detailed.pretraining.checkpoint import Part
from subjectgen.toybox.world import Draw

COMMAND = "python -m subjectgen.toybox.detailed.pretraining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long a training is and what its choices follow from."""

    steps: int
    """All steps, over all calls."""
    minutes: float
    """Time budget of one call."""
    seed: int
    save_every: float = 60.0
    """Seconds between checkpoints."""
    log_every: float = 30.0
    """Seconds between lines of the log."""


class Run:
    """Counts steps, stops within the time budget, and writes a checkpoint every minute.

    The same command goes on from the last checkpoint, also after ``kill -9``. What a step does follows from seed and
    step alone, so the end is the same bit for bit (on one machine with one number of threads).
    """

    def __init__(
        self, out: Path, name: str, parts: Mapping[str, Part], *, plan: Plan, settings: Mapping[str, Any]
    ) -> None:
        self.plan, self.step, self.samples = plan, 0, 0
        self._parts, self._settings = parts, {"seed": plan.seed, **settings}
        self._checkpoint = out / "checkpoints" / f"{name}.safetensors"
        self._log = out / "logs" / f"{name}.jsonl"
        self._spent, self._started = 0.0, time.monotonic()
        self._losses: dict[str, list[float]] = {}
        if self._checkpoint.exists():
            self._go_on()
        else:
            self._begin(out)

    @property
    def finished(self) -> bool:
        """Whether all steps were made."""
        return self.step >= self.plan.steps

    def draw(self, step: int) -> Draw:
        """The random choices of one step."""
        return Draw((self.plan.seed * 1_000_003 + 1) * 1_000_000 + step)

    def remaining(self) -> Iterator[int]:
        """Numbers of the steps to make now; after each one it counts, logs and saves."""
        saved = logged = time.monotonic()
        while not self.finished and time.monotonic() - self._started < 60 * self.plan.minutes:
            yield self.step
            self.step += 1
            now = time.monotonic()
            if now - logged > self.plan.log_every:
                self._write_means()
                logged = now
            if now - saved > self.plan.save_every:
                self.save()
                saved = now
        self._write_means()
        self.save()

    def add(self, samples: int, **losses: torch.Tensor) -> None:
        """Count the pictures of a step and its losses."""
        self.samples += samples
        for name, value in losses.items():
            self._losses.setdefault(name, []).append(float(value))

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

    def _begin(self, out: Path) -> None:
        # Whose folders they were is of no interest to others.
        given = ["OUT" if argument == str(out) else argument for argument in sys.argv[1:]]
        given = ["POOL" if before == "--pool" else argument for before, argument in pairwise(["", *given])]
        machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        header = {
            "command": " ".join([COMMAND, *given]),
            "machine": machine,
            **self._settings,
        }
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
        if self._losses:
            self.write(**{name: sum(values) / len(values) for name, values in self._losses.items()})
        self._losses = {}
