"""Branch dropout in training: one joint table says what is hidden from which branch, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field, model_validator

from subjectgen.core import EVERYTHING, ChangesResults, Config, ConfigError, Visibility
from subjectgen.schedules.guidance import Input
from subjectgen.schedules.names import check_names
from subjectgen.schedules.training_timesteps import uniform

TOLERANCE = 1e-9  # ten rows of 0.1 add up to a little more or less than 1


class DropoutRow(Config):
    """One outcome of the draw. Rows exclude each other."""

    probability: ChangesResults[float] = Field(ge=0, le=1)
    """How often this outcome is drawn."""
    hide: ChangesResults[dict[str, tuple[Input, ...]]]
    """Inputs that are hidden, per branch, such as ``{mllm: [references]}``. A branch of which all inputs are hidden, as
    in ``{mllm: [text, references]}``, is absent from that row: the others learn to speak alone."""


class DropoutConfig(Config):
    """The joint table. The rest of the probability hides nothing."""

    table: ChangesResults[tuple[DropoutRow, ...] | None] = None
    """Outcomes; null takes :func:`default_table`, an empty list hides nothing ever."""

    @model_validator(mode="after")
    def _at_most_one(self) -> DropoutConfig:
        total = sum(row.probability for row in self.table or ())
        if total > 1 + TOLERANCE:
            raise ValueError(f"dropout.table: the probabilities add up to {total:g}; expected at most 1")
        return self


def default_table(
    branches: Sequence[str], *, text: float = 0.1, references: float = 0.05, everything: float = 0.05
) -> tuple[DropoutRow, ...]:
    """The usual table: text hidden from all; or references hidden from one branch; or everything from all.

    Two branches never lose their references together unless everything is hidden (Squeeze-MLLM 3.5). Each argument is
    the probability of its row; ``references`` is that of each branch. For branches mllm and vae:

    ===========  ====================  ===================
    probability  hidden from mllm      hidden from vae
    ===========  ====================  ===================
    0.10         text                  text
    0.05         references
    0.05                               references
    0.05         text, references      text, references
    0.75
    ===========  ====================  ===================

    Raises:
        ConfigError: the probabilities add up to more than 1.
    """
    total = text + references * len(branches) + everything
    if total > 1 + TOLERANCE:
        raise ConfigError(f"schedule.dropout: {len(branches)} branches need probability {total:g}; write a table")
    one_branch = (DropoutRow(probability=references, hide={name: ("references",)}) for name in branches)
    return (
        DropoutRow(probability=text, hide=dict.fromkeys(branches, ("text",))),
        *one_branch,
        DropoutRow(probability=everything, hide=dict.fromkeys(branches, ("text", "references"))),
    )


class DropoutTable:
    """Draws outcomes from a table."""

    def __init__(self, config: DropoutConfig, *, branches: Sequence[str]) -> None:
        """Build for these branches.

        Raises:
            ConfigError: a branch that does not exist, or a table that always hides everything from all of them.
        """
        rows = default_table(branches) if config.table is None else config.table
        for row in rows:
            check_names("dropout.table.hide", row.hide, branches)
        self.outcomes = [*(_seen(row, branches) for row in rows), dict.fromkeys(branches, EVERYTHING)]
        """What each branch sees, per row of the table, then the outcome that hides nothing."""
        nothing = sum(row.probability for row, seen in zip(rows, self.outcomes, strict=False) if _blind(seen))
        if nothing > 1 - TOLERANCE:
            raise ConfigError(
                "schedule.dropout.table: hides everything from every branch in every row, so that no branch learns; "
                "expected rows in which some branch sees something"
            )
        self._bounds = torch.tensor([row.probability for row in rows], dtype=torch.float64).cumsum(0)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> list[Mapping[str, Visibility]]:
        """Draw what each branch sees, once per training row."""
        index = torch.searchsorted(self._bounds, uniform(count, generator), right=True)
        return [self.outcomes[row] for row in index.tolist()]


def _seen(row: DropoutRow, branches: Sequence[str]) -> dict[str, Visibility]:
    hidden = {name: row.hide.get(name, ()) for name in branches}
    return {name: Visibility("text" not in h, "references" not in h) for name, h in hidden.items()}


def _blind(seen: Mapping[str, Visibility]) -> bool:
    return all(one.nothing for one in seen.values())
