"""Three stages over the timestep: composition first, then both, then detail (Squeeze-MLLM 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from subjectgen.core import EVERYTHING, NOTHING, ChangesResults, Visibility
from subjectgen.schedules.base import BranchSchedule, Stage
from subjectgen.schedules.names import check_names

TEXT_ONLY = Visibility(text=True, references=False)


class ThreeStage(BranchSchedule):
    """Stage masks of Eq. 4-5: early for t >= tau1, middle for tau2 <= t < tau1, late for t < tau2.

    By default the first branch speaks early, all speak in the middle, and all but the first speak late: for branches
    mllm and vae that is the paper. The masks are for generating: training has all branches on and hides references at
    random (3.4), so that any tau1, tau2 may be chosen afterwards (Table C).

    A tau above 1 is never reached. tau1 = tau2 = 0 leaves the early stage alone. tau1 = tau2 = 1 leaves the late one,
    but for the step at t = 1, which is the early stage's (the paper's formula, its row of Table C). tau1 = tau2 = 1.1
    leaves the late one at every step: the first branch is silent. tau1 = 1.1 with a smaller tau2: no early stage.
    """

    class Config(BranchSchedule.Config):
        """Boundaries, and who speaks in which stage."""

        tau1: ChangesResults[float] = Field(default=0.95, ge=0, le=2)
        """End of the early stage; the boundary belongs to the early stage. Above 1: there is no early stage."""
        tau2: ChangesResults[float] = Field(default=0.85, ge=0, le=2)
        """End of the middle stage; the boundary belongs to the middle stage. Above 1: the late stage is all."""
        early: ChangesResults[tuple[str, ...] | None] = None
        """Branches that speak early; null: the first."""
        middle: ChangesResults[tuple[str, ...] | None] = None
        """Branches that speak in the middle; null: all."""
        late: ChangesResults[tuple[str, ...] | None] = None
        """Branches that speak late; null: all but the first."""
        keep_text: ChangesResults[bool] = False
        """A branch of ``text_branches`` that its stage switches off loses its references, but keeps its text."""
        text_branches: ChangesResults[tuple[str, ...] | None] = None
        """Branches that ``keep_text`` is about; null: the first."""

        @model_validator(mode="after")
        def _falling(self) -> ThreeStage.Config:
            if self.tau1 < self.tau2:
                raise ValueError(f"tau1 = {self.tau1:g} is below tau2 = {self.tau2:g}; expected tau1 >= tau2 >= 0")
            return self

    config: Config

    def stages(self) -> Sequence[Stage]:
        """Early, middle and late."""
        config, first, everyone = self.config, self.branches[:1], self.branches
        return [
            Stage(name="early", until=config.tau1, sees=self._sees("early", config.early, first)),
            Stage(name="middle", until=config.tau2, sees=self._sees("middle", config.middle, everyone)),
            Stage(name="late", sees=self._sees("late", config.late, everyone[1:])),
        ]

    def _sees(self, key: str, written: Sequence[str] | None, default: Sequence[str]) -> dict[str, Visibility]:
        on = default if written is None else written
        check_names(key, on, self.branches)
        kept = self.branches[:1] if self.config.text_branches is None else self.config.text_branches
        check_names("text_branches", kept, self.branches)
        off = {name: TEXT_ONLY if self.config.keep_text and name in kept else NOTHING for name in self.branches}
        return {name: EVERYTHING if name in on else off[name] for name in self.branches}
