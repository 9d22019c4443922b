"""The loop of training: phases, and in each phase its steps, from wherever a checkpoint says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from subjectgen.runner.system.system import System
from subjectgen.runner.system.trained import trained_values
from subjectgen.runner.training.cache_size import check_room
from subjectgen.runner.training.caches import Caches
from subjectgen.runner.training.checking import check_data
from subjectgen.runner.training.draws import TrainingBatch
from subjectgen.runner.training.engine import Engine
from subjectgen.runner.training.interruption import Interruption
from subjectgen.runner.training.journal import Journal
from subjectgen.runner.training.learning_rate import learning_rate, set_learning_rate
from subjectgen.runner.training.loading import Share, load_rows
from subjectgen.runner.training.objectives import Objectives
from subjectgen.runner.training.observers import Observers
from subjectgen.runner.training.observing import observers_of
from subjectgen.runner.training.phases import Phase, PhaseData, new_phase, phase_parameters, phase_schedule
from subjectgen.runner.training.position import Position
from subjectgen.runner.training.progress import Progress
from subjectgen.runner.training.rows import Row, Rows
from subjectgen.runner.training.run_directory import RunDirectory
from subjectgen.runner.training.saving import Saving
from subjectgen.runner.training.snapshot import Kept, Snapshot, restore_optimizer, take
from subjectgen.runner.training.step import StepResult
from subjectgen.runner.training.stepper import Stepper
from subjectgen.runner.training.targets import Targets
from subjectgen.runner.training.trackers import Trackers


@dataclass(frozen=True, slots=True)
class Result:
    """What training returns."""

    folder: Path
    losses: dict[str, float]
    """Mean loss of the last logged interval, by phase."""
    main: bool = True
    """Whether this process is the one that speaks and writes."""


class Trainer:
    """The loop over phases and steps of one run."""

    def __init__(
        self,
        system: System,
        data: list[PhaseData],
        run: RunDirectory,
        *,
        engine: Engine,
        progress: Progress,
        interruption: Interruption,
        meaning: Mapping[str, Any],
        known: Mapping[str, Any],
        fingerprints: Callable[[], list[dict[str, Any]]],
    ) -> None:
        """Take a system, whose parts nobody else may use meanwhile.

        Args:
            system: With the weights to start from.
            data: Of each phase.
            run: Where to write.
            engine: Of this process.
            progress: What is said.
            interruption: Signals.
            meaning: What the run's numbers follow from.
            known: Facts that are kept beside trained parts.
            fingerprints: Of the data sets; asked for once, by a new run, for samples are read.
        """
        settings = system.experiment.settings.training
        assert settings is not None  # or there would be no data
        self.system, self.settings, self.data, self.run, self.engine = system, settings, data, run, engine
        self._progress, self._interruption = progress, interruption
        self._meaning, self._fingerprints, self._seed = dict(meaning), fingerprints, system.experiment.settings.seed
        for phase in settings.phases:
            phase_schedule(system, phase)
            phase_parameters(system, phase)
        self.caches = Caches(system, settings.cache, known=known, say=progress.say)
        self.stepper = Stepper(system, engine, remembering=self.caches.system)
        self._objectives = Objectives(system, self.stepper.parameters, sharded=engine.sharded)
        self.position = Position()
        self._optimizer_state: Mapping[str, torch.Tensor] | None = None
        self._trackers = Trackers(settings.trackers if engine.main else (), run.folder, say=progress.say)
        self._journal = Journal(run, engine, progress, self._trackers, max_broken=settings.max_broken)
        self._saving = Saving(run, system, known, settings, say=progress.say)
        observers = observers_of(system, run, engine, self._journal)
        self._observers = Observers(observers, system, self.stepper.module, engine, progress.say)

    def restore(self, kept: Kept) -> None:
        """Go on where a checkpoint was taken; the system holds its weights already."""
        self.position = Position.of(kept.record)
        self._journal.restore(kept.record)
        average = kept.average()
        if self.stepper.averages is not None and average is not None:
            self.stepper.averages.restore(average, self.position.average_steps)
        self._optimizer_state, self._objectives.teacher = kept.optimizer(), kept.teacher()
        self._saving.step = self.position.step

    def train(self) -> Result:
        """Run what is left of all phases."""
        if not self.position.step:  # a run that goes on has read it before
            self._progress.begin("reading the first sample")
            check_data(self.system, self.settings.phases, self.data, self._progress.say)
        for line in check_room(self.caches, self.data):
            self._progress.say(line)
        with self._saving, self.caches, self._trackers.going_on_after(self.position.step):
            for number in range(self.position.phase, len(self.settings.phases)):
                if number != self.position.phase:
                    self.position.phase, self.position.phase_step = number, 0
                    self._optimizer_state = self._objectives.teacher = None
                phase = self.phase(number)
                if self._optimizer_state:
                    restore_optimizer(self.stepper.parameters, phase.optimizer, self._optimizer_state)
                self._run_phase(phase)
                snapshot = self.snapshot(phase)
                self._save(snapshot)
            self._saving.end(snapshot)
        return Result(folder=self.run.folder, losses=self.position.losses, main=self.engine.main)

    def phase(self, number: int) -> Phase:
        """A phase with a fresh optimizer."""
        if number and self.data[number].datasets != self.data[number - 1].datasets:
            self.caches.forget()
        loss = self._objectives.of(self.settings.phases[number])
        return new_phase(self.system, number, self.data[number], loss)

    def _run_phase(self, phase: Phase) -> None:
        """What is left of a phase's steps."""
        rows = Rows(phase.data.datasets, phase.data.order, seed=self._seed, phase=phase.number)
        share = Share(batch_size=self.settings.batch_size, rank=self.engine.rank, processes=self.engine.processes)
        targets = Targets(self.system, phase.data.order, phase=phase.number, cache=self.caches.targets)
        first, steps = self.position.phase_step, phase.settings.steps
        loaded = load_rows(rows, share, first=first, steps=steps, workers=self.settings.workers)
        self.system.set_training(True)
        with self._progress.phase(phase.name, steps, first=first):
            for _ in range(first, steps):
                began = time.monotonic()
                self._progress.doing(f"step {self.position.step + 1}: reading samples")
                read = next(loaded)
                self._journal.waited(time.monotonic() - began)
                self._one_step(phase, read, targets)
        self.system.set_training(False)

    def _one_step(self, phase: Phase, rows: list[Row], targets: Targets) -> None:
        self._journal.read(rows)
        self._progress.doing(f"step {self.position.step + 1}")
        rate = learning_rate(self.position.phase_step, phase.settings, self.settings)
        set_learning_rate(phase.optimizer, rate)
        batch = self.stepper.draw(phase, rows, targets)
        self._count(batch, self.stepper.make(phase, batch, step=self.position.step))
        step, last = self.position.step, self.position.phase_step == phase.settings.steps
        if step % self.settings.log_every == 0 or last:
            self._journal.log(self.position, phase, rate, batch_size=self.settings.batch_size)
        self._journal.looked(self._observers.after(phase, step, last=last))
        stop = self.engine.largest(self._interruption.asked or 0)[0]
        if stop or (self.settings.save_every and step % self.settings.save_every == 0):
            self._save(self.snapshot(phase))
        if stop:
            self._saving.finish()
            raise self._interruption.after(step, self.run.folder, int(stop))

    def _count(self, batch: TrainingBatch, result: StepResult) -> None:
        """The folder is begun with the first step, when memory has held one."""
        if result.problem is not None:
            self._saving.finish()
            allowed, last_good = self.settings.skip_nonfinite, self.run.last_good
            self._progress.say(self.position.left_out(result.problem, allowed=allowed, last_good=last_good))
        else:
            self._journal.made(batch, result)
        self.position.step += 1
        self.position.phase_step += 1
        self._interruption.finish_steps()
        self.run.begin(self.system, self._fingerprints)
        self._progress.step_done()

    def snapshot(self, phase: Phase) -> Snapshot:
        """This step, copied to the CPU."""
        averages = self.stepper.averages
        self.position.average_steps = 0 if averages is None else averages.steps
        kept = {"processes": self.engine.processes, "meaning": self._meaning}
        record = {**self.position.record, **self._journal.record, **kept}
        values, teacher = trained_values(self.system), self._objectives.teacher
        return take(values, self.stepper.parameters, phase.optimizer, averages, record, teacher=teacher)

    def _save(self, snapshot: Snapshot) -> None:
        self.caches.flush()
        self._saving.save(snapshot)
