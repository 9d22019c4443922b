"""For all tests. Imports nothing of ours: jaxtyping's import hook must come first."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import Phase, settings

settings.register_profile("subjectgen", deadline=None)  # a busy machine is not a failure
settings.register_profile("first counterexample", deadline=None, phases=(Phase.explicit, Phase.generate))
settings.load_profile("subjectgen")


@pytest.fixture
def first_counterexample(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Laws of the conformance kit stop at the first counterexample, for tests that break them on purpose.

    Making it smaller takes most of the time, and nobody reads it there.
    """
    settings.load_profile("first counterexample")
    for module in [module for name, module in sys.modules.items() if name.startswith("subjectgen.testing.")]:
        for name, value in list(vars(module).items()):
            if isinstance(value, settings):
                monkeypatch.setattr(module, name, settings(value, phases=settings.default.phases))
    yield
    settings.load_profile("subjectgen")


@pytest.fixture
def broken_laws(first_counterexample: None) -> Callable[..., set[str]]:
    """Call every test of a contract as a function, with the fixtures it asks for, and name those that fail."""

    def broken_laws(contract: object, **fixtures: object) -> set[str]:
        laws = [getattr(contract, name) for name in dir(contract) if name.startswith("test_")]
        assert laws
        return {law.__name__ for law in laws if _fails(law, fixtures)}

    return broken_laws


def _fails(law: Callable[..., object], fixtures: dict[str, object]) -> bool:
    asked = {name: fixtures[name] for name in inspect.signature(law).parameters}
    try:
        law(**asked)
    except pytest.skip.Exception:
        return False
    except (Exception, pytest.fail.Exception):  # an error is a failure, and pytest.fail is no Exception
        return True
    return False
