"""Three stages over the timestep: composition first, then both, then detail (Squeeze-MLLM 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from subjectgen.core import EVERYTHING, NOTHING, ConfigError, Visibility
from subjectgen.schedules.base import BranchSchedule
from subjectgen.schedules.names import check_names

TEXT_ONLY = Visibility(text=True, references=False)


class ThreeStage(BranchSchedule):
    """Stage masks of Eq. 4-5: early for t >= tau1, middle for tau2 <= t < tau1, late for t < tau2.

    By default the first branch speaks early, all speak in the middle, and all but the first speak late: for branches
    mllm and vae that is the paper. tau1 = tau2 = 0 leaves the early stage alone; tau1 = tau2 = 1 leaves the late one,
    but for the very first step, which is at t = 1 (Table C).
    """

    class Config(BranchSchedule.Config):
        """Boundaries, and who speaks in which stage."""

        tau1: float = Field(default=0.95, ge=0, le=1)
        """End of the early stage; the boundary belongs to the early stage."""
        tau2: float = Field(default=0.85, ge=0, le=1)
        """End of the middle stage; the boundary belongs to the middle stage."""
        early: tuple[str, ...] | None = None
        """Branches that speak early; null: the first."""
        middle: tuple[str, ...] | None = None
        """Branches that speak in the middle; null: all."""
        late: tuple[str, ...] | None = None
        """Branches that speak late; null: all but the first."""
        keep_text: bool = False
        """A branch of ``text_branches`` that its stage switches off loses its references, but keeps its text."""
        text_branches: tuple[str, ...] | None = None
        """Branches that ``keep_text`` is about; null: the first."""

        @model_validator(mode="after")
        def _falling(self) -> ThreeStage.Config:
            if self.tau1 < self.tau2:
                raise ValueError(f"tau1 = {self.tau1:g} is below tau2 = {self.tau2:g}; expected 1 >= tau1 >= tau2 >= 0")
            return self

    config: Config

    def _visibility(self) -> Mapping[str, Mapping[str, Visibility]]:
        config, first, everyone = self.config, self.branches[:1], self.branches
        kept = first if config.text_branches is None else config.text_branches
        check_names("text_branches", kept, everyone)
        stages = {
            "early": self._names("early", config.early, first),
            "middle": self._names("middle", config.middle, everyone),
            "late": self._names("late", config.late, everyone[1:]),
        }
        return {
            stage: {n: _seen(n, on, kept if config.keep_text else ()) for n in everyone} for stage, on in stages.items()
        }

    def _stage(self, timestep: float) -> str:
        if timestep >= self.config.tau1:
            return "early"
        return "middle" if timestep >= self.config.tau2 else "late"

    def _names(self, key: str, written: Sequence[str] | None, default: Sequence[str]) -> Sequence[str]:
        names = default if written is None else written
        check_names(key, names, self.branches)
        if not names:
            raise ConfigError(
                f"schedule.{key}: no branch is left of {', '.join(self.branches)}; expected at least one"
                " (schedule 'always_on' needs no stages)"
            )
        return names


def _seen(name: str, on: Sequence[str], keeps_text: Sequence[str]) -> Visibility:
    if name in on:
        return EVERYTHING
    return TEXT_ONLY if name in keeps_text else NOTHING
