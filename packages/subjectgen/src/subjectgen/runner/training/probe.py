"""Is anybody heard? A look at intervals at what references and prompts change, on rows that stay the same."""

from __future__ import annotations

import torch

from subjectgen.core import InputError
from subjectgen.runner.system.settings import TrainingSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.training.journal import Journal
from subjectgen.runner.training.measuring import FixedRows, mean_over_t, measure
from subjectgen.runner.training.observers import Moment
from subjectgen.runner.training.phases import Phase
from subjectgen.runner.training.positions import generator
from subjectgen.runner.training.rows import Rows
from subjectgen.runner.training.run_directory import PROBE
from subjectgen.runner.training.swaps import INPUTS
from subjectgen.runner.training.targets import Targets


def fixed_rows(system: System, phase: Phase, *, seed: int, count: int) -> FixedRows:
    """The first rows of a phase that can be read, as training sees them, with noise of their own.

    Raises:
        InputError: None can be read, or one has no target that fits.
    """
    rows = Rows(phase.data.datasets, phase.data.order, seed=seed, phase=phase.number)
    found = [row for row in map(rows.__getitem__, range(count)) if row.sample is not None]
    if not found:
        raise InputError(f"none of the first {count} rows can be read")
    data = Targets(system, phase.data.order, phase=phase.number).latents(found)
    draws = [generator(seed, "probe", phase.number, row.position) for row in found]
    return FixedRows(
        samples=[row.sample for row in found if row.sample is not None],
        data=data,
        noise=[torch.randn(one.shape, generator=draw).to(one) for one, draw in zip(data, draws, strict=True)],
    )


class Probe:
    """Measures at intervals and writes ``probe.jsonl``."""

    name = "the probe (training.probe_every)"

    def __init__(self, settings: TrainingSettings, *, seed: int, journal: Journal) -> None:
        """``seed``: the experiment's."""
        self.every = settings.probe_every or 0
        self._settings, self._seed, self._journal = settings, seed, journal
        self._rows: tuple[int, FixedRows] | None = None

    def __call__(self, moment: Moment) -> None:
        """One line of what :func:`measure` finds."""
        number = moment.phase.number
        if self._rows is None or self._rows[0] != number:
            count = self._settings.probe_rows
            self._rows = number, fixed_rows(moment.system, moment.phase, seed=self._seed, count=count)
        guidance, size = self._settings.guidance, self._settings.micro_batch
        found = moment.look(measure, self._rows[1], moment.phase.schedule, guidance, size)
        self._journal.write(PROBE, {"step": moment.step, "phase": moment.phase.name, **found})
        said = [f"loss {found['loss']:.3f} on fixed rows"]
        for what in INPUTS:
            if found[f"{what}_by_t"]:
                said.append(f"other {what} change {mean_over_t(found[f'{what}_by_t']):.2g} of the velocity")
        self._journal.progress.note("probe", f"step {moment.step}: {', '.join(said)}")
