"""What each phase of a run learns."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from subjectgen.core import InputError
from subjectgen.runner.system.settings import PhaseSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.training.isolation import isolation_loss
from subjectgen.runner.training.losses import FlowMatching, Loss


class Objectives:
    """Makes the losses of phases, and keeps what a phase learns from where that is not the data."""

    def __init__(self, system: System, parameters: Mapping[str, nn.Parameter], *, sharded: bool) -> None:
        """Of a system.

        Args:
            system: As it is trained.
            parameters: All that is trained.
            sharded: Whether weights are cut into pieces.
        """
        settings = system.experiment.settings.training
        assert settings is not None  # or there would be no phases
        self._system, self._parameters, self._sharded = system, parameters, sharded
        self._guidance = settings.guidance
        self.teacher: Mapping[str, Tensor] | None = None
        """Of the phase that is at work, on the CPU; a checkpoint keeps it."""

    def of(self, phase: PhaseSettings) -> Loss:
        """The loss of a phase; its teacher is what is trained as it is now, unless there is one already.

        Raises:
            InputError: Isolation where models are cut.
            ConfigError: Isolation of a backbone that does not isolate references.
        """
        if phase.loss == "flow_matching":
            self.teacher = None
            return FlowMatching(guidance=self._guidance)
        if self._sharded:
            raise InputError("training.phases: loss: isolation needs whole weights; expected DDP in place of FSDP2")
        if self.teacher is None:
            self.teacher = {name: value.detach().cpu().clone() for name, value in self._parameters.items()}
        return isolation_loss(self._system, self._parameters, self.teacher, guidance=self._guidance)
