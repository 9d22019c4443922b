"""The runner: experiments in, trained parts and images out. The only package that knows all kinds of parts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subjectgen.runner.generation.pipeline import SubjectPipeline as SubjectPipeline
    from subjectgen.runner.system.experiment import Experiment as Experiment
    from subjectgen.runner.training.run import train as train

_LAZY = {
    "Experiment": "subjectgen.runner.system.experiment",
    "SubjectPipeline": "subjectgen.runner.generation.pipeline",
    "train": "subjectgen.runner.training.run",
}
__all__ = [*_LAZY]  # names from the table


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must start without torch."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
