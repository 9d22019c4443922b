"""Systems of variants, one after another."""

from __future__ import annotations

from subjectgen.runner.generation.pipeline import SubjectPipeline, vary
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.system import System


class Systems:
    """Builds what is asked for; each system shares with the one before it what stays the same."""

    def __init__(self, device: str | None) -> None:
        """``device``: where to run; by default CUDA where there is one."""
        self.device = device
        self._last: System | None = None

    def of(self, experiment: Experiment) -> System:
        """The system of an experiment, with its trained weights.

        Raises:
            SubjectgenError: A component or a checkpoint; the message says where. The next one can be asked for.
        """
        if self._last is None:
            self._last = SubjectPipeline.from_experiment(experiment, device=self.device).system
        else:
            self._last = vary(self._last, experiment)
        return self._last
