"""A run from its first word to its last: build, load, train, write; new, or gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import torch
from rich.console import Console

from subjectgen.core import InputError
from subjectgen.core.json_files import read_json
from subjectgen.core.plugins import Plugins
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.system import System
from subjectgen.runner.system.trained import (
    FOLDER,
    RESOLVED,
    checkpoints,
    facts,
    load_trained,
    taught,
    warn_of_other_encoders,
)
from subjectgen.runner.training.data_fingerprint import data_fingerprint, order_fingerprint
from subjectgen.runner.training.engine import Engine, leave
from subjectgen.runner.training.interruption import Interruption
from subjectgen.runner.training.meaning import check_same, meaning_of
from subjectgen.runner.training.phases import PhaseData, phase_data
from subjectgen.runner.training.progress import Progress
from subjectgen.runner.training.run_directory import RUN, RunDirectory
from subjectgen.runner.training.snapshot import Kept, newest
from subjectgen.runner.training.trackers import check_trackers
from subjectgen.runner.training.trainer import Result, Trainer


def train(
    experiment: Experiment, out: Path, *, device: torch.device | str = "cpu", console: Console | None = None
) -> Result:
    """Train what the experiment leaves unfrozen, from the weights that its ``trained`` names or from the start.

    Args:
        experiment: With ``training``.
        out: New folder for the run.
        device: Where to run.
        console: Where progress goes; by default standard error.

    Raises:
        SubjectgenError: A mistake in the file, a part, the data or the folder; says what to do.
        Interrupted: A signal ended it. The step was finished and is saved.
    """
    engine = _engine(experiment, device)
    with _Session(engine, RunDirectory.claimed(out, writes=engine.main), console) as session:
        return session.train(experiment, device, None)


def resume(
    folder: Path,
    *,
    overrides: Iterable[str] = (),
    device: torch.device | str = "cpu",
    console: Console | None = None,
    plugins: Plugins | None = None,
) -> Result:
    """Go on with a run exactly where its newest checkpoint is.

    Args:
        folder: Of the run.
        overrides: ``"a.b=value"``; only what changes no number.
        device: Where to run.
        console: Where progress goes; by default standard error.
        plugins: Where components are found, by default all that are installed.

    Raises:
        SubjectgenError: No run, one that has ended, or one that began with other numbers; names them.
        Interrupted: As for :func:`train`.
    """
    experiment = experiment_of(folder, overrides, plugins)
    engine = _engine(experiment, device)
    with _Session(engine, RunDirectory.resumed(folder, writes=engine.main), console) as session:
        if (folder / FOLDER).is_dir():
            raise InputError(
                f"{folder}: this run has ended; to train on from its weights: --set trained={folder} --out ANOTHER"
            )
        kept, problems = newest(checkpoints(folder))
        for problem in problems:
            session.progress.say(f"passed over a checkpoint that is not whole: {problem}")
        start = str(kept.folder / FOLDER) if kept is not None else _started_from(folder)
        return session.train(experiment.changed({"trained": start}), device, kept)


def train_system(system: System, out: Path, *, console: Console | None = None) -> Result:
    """Train a system that is built, from what its parts are; for those who change or look at parts. See :func:`train`.

    Raises:
        SubjectgenError: As for :func:`train`.
    """
    with open_trainer(system, out, console=console) as trainer:
        return trainer.train()


@contextmanager
def open_trainer(system: System, out: Path, *, console: Console | None = None) -> Iterator[Trainer]:
    """The trainer of a system that is built, before its first step.

    Raises:
        SubjectgenError: As for :func:`train`.
    """
    engine = _engine(system.experiment, system.device)
    with _Session(engine, RunDirectory.claimed(out, writes=engine.main), console) as session:
        yield session.trainer(system, phase_data(system.experiment))


def experiment_of(folder: Path, overrides: Iterable[str] = (), plugins: Plugins | None = None) -> Experiment:
    """What a run was begun with, but for what is set anew.

    Raises:
        InputError: No run there.
    """
    if not (folder / RESOLVED).is_file() or not (folder / RUN).is_file():
        raise InputError(f"{folder}: holds no run to go on with; expected a folder that subjectgen train wrote")
    return Experiment.read(folder / RESOLVED, overrides, plugins)


def _started_from(folder: Path) -> str | None:
    """The weights that a run began with."""
    name = read_json(folder / RUN).get("trained_before")
    return str(folder / name) if isinstance(name, str) and name.startswith("./") else name


def _engine(experiment: Experiment, device: torch.device | str) -> Engine:
    experiment.training_sources()  # what is missing is said before any part is loaded
    settings = experiment.settings.training
    assert settings is not None
    check_trackers(settings.trackers)
    return Engine(settings, device)


class _Session:
    """Signals, words and the folder of a run, in the order in which they begin and end."""

    def __init__(self, engine: Engine, folder: AbstractContextManager[RunDirectory], console: Console | None) -> None:
        self.engine, self._claim = engine, folder
        self.progress = Progress(console if engine.main else Console(quiet=True))
        self._interruption = Interruption()

    def __enter__(self) -> _Session:
        with ExitStack() as entered:  # what was entered is left again if what follows cannot be
            entered.enter_context(self.progress)
            entered.enter_context(self._interruption)
            self.run = entered.enter_context(self._claim)
            self._entered = entered.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._entered.__exit__(kind, error, trace)
        finally:
            leave(self.engine, together=kind is None)

    def train(self, experiment: Experiment, device: torch.device | str, kept: Kept | None) -> Result:
        """Build, load and train."""
        place = self.engine.device(torch.device(device))
        self.progress.begin(f"building {experiment.name} on {place}")
        system = load_trained(build_system(experiment, device=place), may_differ=taught(experiment))
        if system.trained is not None and kept is None:
            self.progress.say(f"starting from the trained parts of {system.trained}")
            warn_of_other_encoders(system)
        trainer = self.trainer(system, phase_data(experiment), kept)
        if kept is not None:
            trainer.restore(kept)
            self.progress.say(f"going on after step {kept.record['step']} of {self.run.folder}")
            then, now = kept.record["processes"], self.engine.processes
            if then != now:
                self.progress.say(f"on {now} processes where there were {then}: equal but for rounding")
        self.run.forget_after(0 if kept is None else kept.record["step"])
        return trainer.train()

    def trainer(self, system: System, data: list[PhaseData], kept: Kept | None = None) -> Trainer:
        """The trainer of a system.

        Raises:
            ConfigError: A checkpoint that began with other numbers.
        """
        facts_of_order = [[order_fingerprint(dataset) for dataset in one.datasets] for one in data]
        meaning = meaning_of(system.experiment, facts_of_order)
        if kept is not None:
            check_same(kept.record["meaning"], meaning, str(self.run.folder))
        known = facts(system)
        sources = {
            source.part.identity: (source.part, dataset)
            for one, phase in zip(data, system.experiment.training_sources(), strict=True)
            for source, dataset in zip(phase, one.datasets, strict=True)
        }
        return Trainer(
            system,
            data,
            self.run,
            engine=self.engine,
            progress=self.progress,
            interruption=self._interruption,
            meaning=meaning,
            known=known,
            fingerprints=lambda: [data_fingerprint(part, dataset) for part, dataset in sources.values()],
        )
