"""A trainer before a step, as ``subjectgen train`` makes it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parts.build import compiled, system, use_attention
from parts.machine import collect
from parts.session import Session
from subjectgen.runner.training.phases import Phase
from subjectgen.runner.training.rows import Rows
from subjectgen.runner.training.run import open_trainer
from subjectgen.runner.training.targets import Targets
from subjectgen.runner.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True, eq=False)
class Ready:
    """A trainer before a step."""

    trainer: Trainer
    phase: Phase
    targets: Targets

    def step(self, batch: int) -> Callable[[], object]:
        """One optimizer step on so many samples."""
        rows = Rows(self.phase.data.datasets, self.phase.data.order, seed=0, phase=0)
        read = [rows[position] for position in range(batch)]
        stepper = self.trainer.stepper
        return lambda: stepper.make(self.phase, stepper.draw(self.phase, read, self.targets), step=0)

    def encoding(self, batch: int) -> Callable[[], object]:
        """What the encoders do in a step."""
        branches = self.trainer.system.branches.values()
        samples = [self.phase.data.datasets[0][number] for number in range(batch)]

        def run() -> None:
            with torch.no_grad():
                for branch in branches:
                    branch.encoder.encode(samples, layers=getattr(branch.aggregator, "layers", None))

        return run


def changes(session: Session, checkpointing: str) -> list[str]:
    """The experiment in one phase of both branches at all timesteps, on random pictures."""
    side, sizes = session.sizes.images[0], session.sizes
    pictures = f"name: random_pairs, target: {side}, reference: {sizes.reference}, prompt: {sizes.prompt}"
    return [
        f"image={{height: {side}, width: {side}}}",
        f"training.dataset={{{pictures}}}",
        "training.phases=[{name: both, steps: 1, stage_masks: false}]",
        "training.mixed_precision=bf16",
        "training.cache.targets=true",
        "schedule.dropout.table=[]",
        f"backbone.gradient_checkpointing={checkpointing}",
    ]


@contextlib.contextmanager
def made_ready(session: Session, checkpointing: str) -> Iterator[Ready]:
    """A trainer as ``subjectgen train`` makes it, with what a phase sets up."""
    built = system(session, changes(session, checkpointing))
    use_attention(built, session.attention)
    if session.compiled:
        compiled(built)
    with tempfile.TemporaryDirectory() as folder, open_trainer(built, Path(folder) / "run") as trainer:
        phase = trainer.phase(0)
        targets = Targets(built, phase.data.order, phase=0, cache=trainer.caches.targets)
        built.set_training(True)
        try:
            yield Ready(trainer=trainer, phase=phase, targets=targets)
        finally:
            trainer.engine.accelerator.free_memory()


def attempt(session: Session, ready: Ready, run: Callable[[], Any]) -> Any:
    """What it returns; ``None`` where the device's memory ran out. Then gradients and cached blocks go."""
    with contextlib.suppress(torch.OutOfMemoryError):
        return run()
    # Only here, for the error held what was computed so far.
    ready.phase.optimizer.zero_grad()
    collect(session.device)
    return None
