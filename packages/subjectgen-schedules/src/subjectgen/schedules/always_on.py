"""Every branch speaks at every timestep: one-branch experiments, adapters, always-on baselines."""

from __future__ import annotations

from collections.abc import Mapping

from subjectgen.core import EVERYTHING, Visibility
from subjectgen.schedules.base import BranchSchedule


class AlwaysOn(BranchSchedule):
    """One stage, ``all``, in which every branch sees everything."""

    class Config(BranchSchedule.Config):
        """Nothing beyond what every schedule has."""

    config: Config

    def _visibility(self) -> Mapping[str, Mapping[str, Visibility]]:
        return {"all": dict.fromkeys(self.branches, EVERYTHING)}

    def _stage(self, timestep: float) -> str:
        return "all"
