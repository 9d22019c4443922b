"""For all tests. Imports nothing of ours before jaxtyping's import hook stands."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from jaxtyping import install_import_hook

# Shapes in signatures are checked in tests; an int is a float, as for mypy. (pytest's --jaxtyping-packages takes one
# package only beside a checker with options.)
CHECKED = ["subjectgen", *(path.parent.name for path in Path(__file__).parent.glob("plugins/*/src/*/__init__.py"))]
install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

settings.register_profile("subjectgen", deadline=None)  # a busy machine is not a failure
settings.register_profile("first counterexample", deadline=None, phases=(Phase.explicit, Phase.generate))
settings.load_profile("subjectgen")


@pytest.fixture(scope="session", autouse=True)
def _few_examples() -> Iterator[None]:
    """``SUBJECTGEN_EXAMPLES=2`` tries the kit's laws on two examples: enough to see that all they need is there."""
    most = os.environ.get("SUBJECTGEN_EXAMPLES")
    with pytest.MonkeyPatch.context() as monkeypatch:
        if most:
            _change_the_kits(monkeypatch, lambda law: settings(law, max_examples=min(int(most), law.max_examples)))
        yield


@pytest.fixture
def first_counterexample(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Laws of the kit stop at the first counterexample, for tests that break them on purpose.

    Making it smaller takes most of the time, and nobody reads it there.
    """
    settings.load_profile("first counterexample")
    phases = settings.default.phases
    _change_the_kits(monkeypatch, lambda law: settings(law, phases=phases, max_examples=max(25, law.max_examples)))
    yield
    settings.load_profile("subjectgen")


def _change_the_kits(monkeypatch: pytest.MonkeyPatch, change: Callable[[settings], settings]) -> None:
    for module in [module for name, module in sys.modules.items() if name.startswith("subjectgen.testing.")]:
        for name, value in list(vars(module).items()):
            if isinstance(value, settings):
                monkeypatch.setattr(module, name, change(value))


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
