"""What every schedule of named branches shares; a schedule adds its stages.

A schedule of your own needs a name, its options and :meth:`BranchSchedule.stages`; grids, guidance, dropout and
training timesteps come with the base:

.. code-block:: python

    from subjectgen.schedules.base import BranchSchedule, Stage

    class Halves(BranchSchedule):
        "The first branch in the first half of t, the others in the second."

        class Config(BranchSchedule.Config):
            "Options."

            middle: ChangesResults[float] = 0.5
            "Where the others take over."

        config: Config

        def stages(self):
            first, *others = self.branches
            return [
                Stage(name="first", until=self.config.middle, sees=self.only(first)),
                Stage(name="others", sees=self.only(*others)),
            ]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from subjectgen.core import (
    EVERYTHING,
    NOTHING,
    ActiveBranches,
    ChangesResults,
    ChangesWeights,
    Config as BaseConfig,
    Guidance,
    InputError,
    Visibility,
)
from subjectgen.schedules import training_timesteps as training
from subjectgen.schedules.dropout import DropoutConfig, DropoutTable
from subjectgen.schedules.grids import GridName, flux_mu, make_grid
from subjectgen.schedules.guidance import GuidanceConfig, resolve_guidance
from subjectgen.schedules.names import check_branches
from subjectgen.schedules.stages import Stage as Stage, Stages


class BranchSchedule(ABC):
    """Timestep grid, stages, guidance and dropout over branches of any names.

    A subclass says which stages there are (:meth:`stages`), from its configuration and branches alone. Stages say who
    speaks when generating; training hides inputs by the dropout table, at every timestep alike.
    """

    class Config(BaseConfig):
        """Settings of every schedule."""

        grid: ChangesResults[GridName] = "cosine"
        """Sampling grid; the paper says "cosine" without a formula."""
        steps: ChangesResults[int] = Field(default=25, ge=1, le=10_000)
        """Denoising steps."""
        mu: ChangesResults[float | None] = Field(default=None, ge=-10, le=10)
        """Shift of ``flux_shift`` and of the training grid; null takes FLUX's rule for the image's tokens."""
        inactive: ChangesWeights[Literal["drop", "zero"]] = "drop"
        """A branch that is off leaves the sequence (``drop``), or stays multiplied by 0 (``zero``, Eq. 4)."""
        guidance: ChangesResults[GuidanceConfig] = GuidanceConfig()
        """Guidance, for all stages and per stage."""
        dropout: ChangesResults[DropoutConfig] = DropoutConfig()
        """What training hides from which branch, and how often."""
        training_timesteps: ChangesResults[training.DistributionName] = "grid"
        """Training timesteps: ``grid`` (uniform index into FLUX's shifted grid of 1000, as UNO), ``uniform``, or
        ``logit_normal``."""
        logit_mean: ChangesResults[float] = 0.0
        """Mean of ``logit_normal``, before the sigmoid."""
        logit_std: ChangesResults[float] = Field(default=1.0, gt=0)
        """Standard deviation of ``logit_normal``, before the sigmoid."""

    config: Config

    def __init__(self, config: Config, *, branches: Sequence[str]) -> None:
        """Build for these branches, in the experiment's order.

        Raises:
            ConfigError: an unknown branch or stage in the configuration, or a stage without any branch.
        """
        self.config = config
        self.branches = check_branches(branches)
        self.steps = config.steps
        self._stages = Stages(self.stages(), self.branches)
        self._active = {
            name: ActiveBranches(visibility=stage.sees, inactive=config.inactive)
            for name, stage in self._stages.by_name.items()
        }
        self._guidance = resolve_guidance(config.guidance, stages=tuple(self._active), branches=self.branches)
        self._dropout = DropoutTable(config.dropout, branches=self.branches)

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages, from t = 1 down to 0."""

    def only(self, *names: str) -> dict[str, Visibility]:
        """What all branches see where these see everything and the others nothing."""
        return {name: EVERYTHING if name in names else NOTHING for name in self.branches}

    def timesteps(self, steps: int | None = None, *, image_tokens: int | None = None) -> Float[Tensor, " n"]:
        """The sampling grid: steps + 1 points, strictly falling from 1 to 0, float64.

        ``image_tokens``: tokens of the target, for ``flux_shift`` without an explicit ``mu``.

        Raises:
            InputError: fewer than one step, or no way to know the shift.
        """
        return make_grid(self.config.grid, self.steps if steps is None else steps, self._mu(image_tokens))

    def stage(self, timestep: float) -> str:
        """Name of the stage at a timestep in [0, 1]; a boundary belongs to the stage before it.

        Raises:
            InputError: a timestep outside [0, 1].
        """
        return self._stages.at(timestep)

    def active(self, timestep: float) -> ActiveBranches:
        """Branches that speak at this timestep; at least one does."""
        return self._active[self.stage(timestep)]

    def guidance(self, timestep: float) -> Guidance:
        """Guidance at this timestep."""
        return self._guidance[self.stage(timestep)]

    def sample_timesteps(
        self, count: int, *, image_tokens: int | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n"]:
        """Draw training timesteps in (0, 1], float64.

        ``image_tokens``: tokens of the target, for ``grid`` without an explicit ``mu``.

        Raises:
            InputError: no way to know the shift.
        """
        if self.config.training_timesteps == "uniform":
            return 1 - training.uniform(count, generator)
        if self.config.training_timesteps == "logit_normal":
            return training.logit_normal(count, self.config.logit_mean, self.config.logit_std, generator)
        mu = self._mu(image_tokens)
        if mu is None:
            raise InputError("training_timesteps 'grid' needs the number of image tokens, or an explicit schedule.mu")
        return training.shifted_grid(count, mu, generator)

    def sample_dropout(self, count: int, *, generator: torch.Generator | None = None) -> list[Mapping[str, Visibility]]:
        """Draw what each branch sees, per training row, from the dropout table."""
        return self._dropout.sample(count, generator=generator)

    def _mu(self, image_tokens: int | None) -> float | None:
        if self.config.mu is not None or image_tokens is None:
            return self.config.mu
        return flux_mu(image_tokens)
