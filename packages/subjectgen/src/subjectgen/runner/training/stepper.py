"""Makes the steps of a run: all that chance decides follows from its seed and the position."""

from __future__ import annotations

import torch
from torch import nn

from subjectgen.runner.system.system import System
from subjectgen.runner.training.averages import Averages
from subjectgen.runner.training.draws import TrainingBatch, draw_batch
from subjectgen.runner.training.engine import Engine
from subjectgen.runner.training.isolation import IsolationLoss
from subjectgen.runner.training.phases import Phase
from subjectgen.runner.training.positions import derived_seed, seed_modules
from subjectgen.runner.training.rows import Row
from subjectgen.runner.training.step import StepModule, StepResult, optimizer_step
from subjectgen.runner.training.targets import Targets


class Stepper:
    """What is trained, as the engine runs it, and its average."""

    def __init__(self, system: System, engine: Engine, *, remembering: System) -> None:
        """Wrap the system's parts; from now on its trainable parameters are the engine's.

        ``remembering``: the same system, whose encoders may keep what they made: for losses.
        """
        settings = system.experiment.settings.training
        assert settings is not None  # or there would be no steps
        self._system, self._engine, self._settings = system, engine, settings
        self._seed = system.experiment.settings.seed
        self.module: nn.Module = engine.wrap(StepModule(remembering), backbone=system.backbone)
        self.parameters = system.trainable()
        self.averages = None if settings.ema_decay is None else Averages(self.parameters, settings.ema_decay)

    def draw(self, phase: Phase, rows: list[Row], targets: Targets) -> TrainingBatch:
        """Encode targets, where the phase learns from any, and draw what chance decides of each row."""
        seeds = [derived_seed(self._seed, "row", phase.number, row.position) for row in rows]
        samples = [row.sample for row in rows if row.sample is not None]
        if isinstance(phase.loss, IsolationLoss):
            size = self._system.experiment.settings.image
            empty = torch.zeros(self._system.latent_shape(size.height, size.width), device=self._system.device)
            data = [empty] * len(samples)
            return draw_batch(self._system, phase.schedule, samples, data, seeds=seeds, grid=phase.loss.grid)
        return draw_batch(self._system, phase.schedule, samples, targets.latents(rows), seeds=seeds)

    def make(self, phase: Phase, batch: TrainingBatch, *, step: int) -> StepResult:
        """One optimizer step; what modules drop of their weights follows from ``step``, too: those before it."""
        device = self._system.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seed_modules(self.module, self._seed, step, self._engine.rank)
            result = optimizer_step(
                self.module,
                self._system,
                batch,
                loss=phase.loss,
                optimizer=phase.optimizer,
                parameters=phase.parameters,
                max_grad_norm=self._settings.max_grad_norm,
                engine=self._engine,
                batch_size=self._settings.batch_size,
                micro_batch=self._settings.micro_batch,
            )
        if self.averages is not None and result.problem is None:
            self.averages.update()
        return result
