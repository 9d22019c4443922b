"""Who is told what an evaluation does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from subjectgen.runner.generation.batches import Step


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Takes lines and steps."""

    say: Callable[[str], None]
    """Takes one line."""
    on_step: Callable[[str, int, Step], None]
    """Takes what is generated, the number of batches still to come of it when it began, and each step."""
    during: Callable[[str], AbstractContextManager[object]] = nullcontext
    """Takes what goes on inside its block, where nothing else can be said."""
