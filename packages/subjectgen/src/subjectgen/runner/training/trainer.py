"""Training in phases: rectified flow, dropout and timesteps from the experiment's schedule, precision by accelerate."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from accelerate.utils import set_seed
from rich.console import Console

from subjectgen.core import ConfigError, InputError
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.system import System
from subjectgen.runner.system.trained import load_trained, warn_of_other_encoders
from subjectgen.runner.training.batches import sample_order, training_data
from subjectgen.runner.training.draws import TrainingBatch, draw_batch
from subjectgen.runner.training.interruption import Interruption
from subjectgen.runner.training.interval import Interval
from subjectgen.runner.training.learning_rate import learning_rate, set_learning_rate
from subjectgen.runner.training.phases import Phase, phase_name, phase_schedule
from subjectgen.runner.training.precision import accelerator
from subjectgen.runner.training.progress import Progress
from subjectgen.runner.training.run_directory import RunDirectory
from subjectgen.runner.training.step import StepResult, optimizer_step


@dataclass(frozen=True, slots=True)
class Result:
    """What training returns."""

    folder: Path
    losses: dict[str, float]
    """Mean loss of the last logged interval, by phase."""


def train(
    experiment: Experiment,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    console: Console | None = None,
) -> Result:
    """Train what the experiment leaves unfrozen, from the weights that its ``trained`` names or from the start.

    Args:
        experiment: With ``training``.
        out: New folder for the run.
        device: Where to run.
        console: Where progress goes; by default standard error.

    Raises:
        SubjectgenError: A mistake in the file, a part, the data or the folder; says what to do.
        Interrupted: A signal ended it. The step was finished and its weights are saved.
    """
    experiment.training_datasets()  # what is missing is said before any part is loaded
    with Progress(console) as progress, Interruption() as interruption, RunDirectory.claimed(out) as run:
        progress.begin(f"building {experiment.name} on {device}")
        system = load_trained(build_system(experiment, device=device))
        if system.trained is not None:
            progress.say(f"starting from the trained parts of {system.trained}")
            warn_of_other_encoders(system)
        return Trainer(system, run, progress=progress, interruption=interruption).train()


def train_system(system: System, out: Path, *, console: Console | None = None) -> Result:
    """Train a system that is built, from what its parts are; for those who change or look at parts. See :func:`train`.

    Raises:
        SubjectgenError: As for :func:`train`.
    """
    with Progress(console) as progress, Interruption() as interruption, RunDirectory.claimed(out) as run:
        return Trainer(system, run, progress=progress, interruption=interruption).train()


class Trainer:
    """The loop over phases and steps of one run."""

    def __init__(self, system: System, run: RunDirectory, *, progress: Progress, interruption: Interruption) -> None:
        settings = system.experiment.settings.training
        datasets = training_data(system, cache=settings is not None and settings.cache_targets)
        assert settings is not None  # or there would be no data
        self.system, self.settings, self.data = system, settings, datasets
        self.run, self._progress, self._interruption = run, progress, interruption
        self.accelerator = accelerator(settings, system.device)
        self._generator = torch.Generator().manual_seed(system.experiment.settings.seed)
        self.step = 0
        """Steps that were made, over all phases."""
        self._started = time.monotonic()

    def train(self) -> Result:
        """Run all phases; a checkpoint follows each."""
        self._check()
        set_seed(self.system.experiment.settings.seed)
        losses = {}
        for number in range(len(self.settings.phases)):
            phase = self.phase(number)
            losses[phase.name] = self._run_phase(phase)
            self.run.save(self.system, self.step)
            self.accelerator.free_memory(phase.optimizer)
        return Result(folder=self.run.folder, losses=losses)

    def phase(self, number: int) -> Phase:
        """A phase with a fresh optimizer; latents of other phases' data are forgotten."""
        settings = self.settings.phases[number]
        parameters = list(self.system.trainable(settings.branches).values())
        rate, decay = learning_rate(0, settings, self.settings), self.settings.weight_decay
        for other in self.data:
            if other is not self.data[number]:
                other.release()
        return Phase(
            name=f"phase {number + 1} ({phase_name(self.system, settings)})",
            settings=settings,
            schedule=phase_schedule(self.system, settings),
            data=self.data[number],
            parameters=parameters,
            optimizer=self.accelerator.prepare(torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)),
        )

    def _check(self) -> None:
        """Find what would fail later, before anything is written."""
        for number, phase in enumerate(self.settings.phases):
            phase_schedule(self.system, phase)
            if not self.system.trainable(phase.branches):
                raise ConfigError(f"training.phases.{number}: nothing to train; set backbone.lora or use an aggregator")
        self._progress.begin("reading the first sample")
        for data in dict.fromkeys(self.data):
            data.check()

    def _run_phase(self, phase: Phase) -> float:
        """All steps of a phase; returns the mean loss since the last line of the log but one."""
        order = sample_order(len(phase.data.dataset), self.settings.batch_size, self._generator)
        interval, last = Interval(), 0.0
        self.system.set_training(True)
        with self._progress.phase(phase.name, phase.settings.steps):
            for number, indices in enumerate(islice(order, phase.settings.steps)):
                rate = learning_rate(number, phase.settings, self.settings)
                set_learning_rate(phase.optimizer, rate)
                batch = self.draw(phase, indices)
                result = self.make_step(phase, batch)
                self._count(result)
                interval.add(batch, result)
                if (number + 1) % self.settings.log_every == 0 or number + 1 == phase.settings.steps:
                    last = interval.loss
                    self._log(phase, interval, rate)
                    interval = Interval()
                if self.settings.save_every and self.step % self.settings.save_every == 0:
                    self.run.save(self.system, self.step)
                self._stop_if_asked()
        self.system.set_training(False)
        return last

    def draw(self, phase: Phase, indices: list[int]) -> TrainingBatch:
        """Read samples, encode their targets, and draw what chance decides."""

        def tell(done: int, of: int) -> None:
            self._progress.doing(f"step {self.step + 1}: {done} of {of} samples read")

        samples = phase.data.samples(indices, tell)
        self._progress.doing(f"step {self.step + 1}")
        latents = phase.data.latents(indices, samples, generator=self._generator)
        return draw_batch(self.system, phase.schedule, samples, latents, generator=self._generator)

    def make_step(self, phase: Phase, batch: TrainingBatch) -> StepResult:
        """One optimizer step."""
        return optimizer_step(
            self.system,
            batch,
            optimizer=phase.optimizer,
            parameters=phase.parameters,
            max_grad_norm=self.settings.max_grad_norm,
            guidance=self.settings.guidance,
            autocast=self.accelerator.autocast,
            backward=self.accelerator.backward,
        )

    def _count(self, result: StepResult) -> None:
        """The folder is begun with the first step, when memory has held one."""
        if result.problem is not None:
            raise InputError(
                f"training: {result.problem} at step {self.step + 1}, which was not made; {self.run.last_good}; "
                "expected finite numbers: lower training.learning_rate, or look at the data of this step"
            )
        self.step += 1
        self._interruption.finish_steps()
        self.run.begin(self.system, list(dict.fromkeys(self.data)))
        self._progress.step_done()

    def _log(self, phase: Phase, interval: Interval, rate: float) -> None:
        seconds, line = round(time.monotonic() - self._started, 1), interval.line()
        self.run.log({"step": self.step, "phase": phase.name, "seconds": seconds, "learning_rate": rate, **line})
        self._progress.logged(f"step {self.step}", str(interval))

    def _stop_if_asked(self) -> None:
        if self._interruption.asked is not None:
            self.run.save(self.system, self.step)
            raise self._interruption.after(self.step, self.run.folder)
