"""What would fail later, found before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from subjectgen.runner.system.settings import PhaseSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.training.phases import PhaseData
from subjectgen.runner.training.rows import Rows
from subjectgen.runner.training.targets import Targets


def check_data(
    system: System, phases: Sequence[PhaseSettings], data: Sequence[PhaseData], say: Callable[[str], None]
) -> None:
    """Read the first sample of each phase, and say which samples fill no batch.

    Raises:
        InputError: A target that cannot be trained on.
    """
    for number, one in enumerate(data):
        row = Rows(one.datasets, one.order, seed=system.experiment.settings.seed, phase=number)[0]
        if row.sample is not None and phases[number].loss == "flow_matching":
            Targets(system, one.order, phase=number).latents([row])
        for name, left in one.order.tails.items():
            if left:
                unused = one.order.unused[name]
                say(
                    f"{name}{left} of its samples fill no batch of one size in an epoch"
                    + (f"; {unused} of them in none, for their sizes are too rare" if unused else "")
                )
