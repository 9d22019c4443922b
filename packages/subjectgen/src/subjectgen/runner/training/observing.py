"""Who looks at a run, as its settings ask."""

from __future__ import annotations

from subjectgen.runner.system.system import System
from subjectgen.runner.training.engine import Engine
from subjectgen.runner.training.journal import Journal
from subjectgen.runner.training.observers import Observer
from subjectgen.runner.training.probe import Probe
from subjectgen.runner.training.run_directory import RunDirectory
from subjectgen.runner.training.sheets import Sheets


def observers_of(system: System, run: RunDirectory, engine: Engine, journal: Journal) -> list[Observer]:
    """All that the experiment's training asks for."""
    settings, seed = system.experiment.settings.training, system.experiment.settings.seed
    assert settings is not None  # or there would be no run
    found: list[Observer] = []
    if settings.probe_every:
        found.append(Probe(settings, seed=seed, journal=journal))
    if settings.samples_every and not engine.sharded:
        found.append(Sheets(settings, seed=seed, run=run))
    elif settings.samples_every:
        journal.progress.say(
            "training.samples_every: no pictures where models are cut (FSDP2); expected subjectgen generate from a "
            "checkpoint"
        )
    return found
