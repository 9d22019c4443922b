"""Every branch speaks at every timestep: one-branch experiments, adapters, always-on baselines."""

from __future__ import annotations

from collections.abc import Sequence

from subjectgen.schedules.base import BranchSchedule, Stage


class AlwaysOn(BranchSchedule):
    """One stage, ``all``, in which every branch sees everything."""

    class Config(BranchSchedule.Config):
        """Nothing beyond what every schedule has."""

    config: Config

    def stages(self) -> Sequence[Stage]:
        """The one stage."""
        return [Stage(name="all", sees=self.only(*self.branches))]
