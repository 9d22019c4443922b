"""Looks at a run from outside of its steps, at intervals; training is the same, bit for bit, with them and without."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from subjectgen.core.errors import one_line
from subjectgen.runner.system.system import System
from subjectgen.runner.training.engine import Engine
from subjectgen.runner.training.phases import Phase


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """A step after which somebody looks."""

    system: System
    """In evaluation mode, without gradients."""
    phase: Phase
    step: int
    """Of the run."""
    look: nn.Module
    """``look(function, *arguments)`` is ``function(system, *arguments)``, with whole parameters whatever the engine."""


@runtime_checkable
class Observer(Protocol):
    """Somebody who looks."""

    name: str
    """For messages."""
    every: int
    """Steps between looks."""

    def __call__(self, moment: Moment) -> None:
        """Look, and write down what is seen. Must draw from generators of its own."""


class Observers:
    """All who look at a run. One that fails is told of once and left out: it must not cost the run."""

    def __init__(
        self,
        observers: Sequence[Observer],
        system: System,
        module: nn.Module,
        engine: Engine,
        say: Callable[[str], None],
    ) -> None:
        """``module``: that of the steps, as the engine runs it."""
        self._open = list(observers)
        self._system, self._engine, self._say = system, engine, say
        self._view = engine.view(module)

    def after(self, phase: Phase, step: int, *, last: bool) -> float:
        """Look where it is time to, and at the ``last`` step of a phase; returns the seconds that it took."""
        due = [one for one in self._open if last or step % one.every == 0]
        if not due or self._view is None:
            return 0.0
        began = time.monotonic()
        moment = Moment(system=self._system, phase=phase, step=step, look=self._view)
        for one in due:
            problem = self._problem(one, moment)
            if self._engine.sharded and self._engine.largest(problem is not None)[0]:
                problem = problem or "failed in another process"
            if problem is not None:
                self._open.remove(one)
                self._say(f"{one.name} failed at step {step} and is left out from now on: {problem}")
        return time.monotonic() - began

    def _problem(self, observer: Observer, moment: Moment) -> str | None:
        try:
            with looking(self._system), self._engine.autocast():
                observer(moment)
        except Exception as error:  # parts may raise anything
            return f"{type(error).__name__}: {one_line(error)}"
        finally:
            self._engine.put_back(moment.look)
        return None


@contextmanager
def looking(system: System) -> Iterator[None]:
    """A system in training, as it is for generating; afterwards it and chance are as they were."""
    device = system.device
    system.set_training(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        system.set_training(True)
