"""The conformance kit: what a failing law shows, contracts that cannot be replaced, and a plugin from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import subjectgen.testing
from subjectgen.core.plugins import Plugins
from subjectgen.testing import PluginContract
from subjectgen.testing.base import Contract


def test_a_failing_law_shows_its_values(tmp_path: Path) -> None:
    """The kit's asserts are rewritten, or the report would say no more than AssertionError.

    Only a process of its own shows it: here jaxtyping's import hook takes the place of pytest's.
    """
    test = 'from subjectgen.testing import PluginContract\nclass TestIt(PluginContract): distribution = "nobody"\n'
    (tmp_path / "test_it.py").write_text(test)
    own = ("--noconftest", "-c", os.devnull, "--rootdir", str(tmp_path))  # the folder may lie in the repository
    command = [sys.executable, "-m", "pytest", *own, "-q", "-p", "no:cacheprovider", "-k", "discovered", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "assert 'nobody' in " in done.stdout


# ------------------------------------------------------------------------------------------------- the guard


class Law(Contract):
    """A contract of one test."""

    def test_law(self) -> None:
        """It holds."""


def test_a_contract_test_cannot_be_replaced() -> None:
    def nothing(self: object) -> None: ...

    with pytest.raises(TypeError, match=r"Sub\.test_law overrides a test of Law"):
        type("Sub", (Law,), {"test_law": lambda self: None})
    with pytest.raises(TypeError, match="test_law"):
        type("Sub", (Law,), {"test_law": None})
    with pytest.raises(TypeError, match="test_law"):
        type("Sub", (type("Middle", (Law,), {}),), {"test_law": pytest.mark.xfail(nothing)})


def test_an_expected_failure_with_a_reason_is_allowed() -> None:
    class Sub(Law):
        @pytest.mark.xfail(reason="the model has no padding")
        def test_law(self) -> None: ...

        def test_more(self) -> None: ...

    assert Sub.test_law is not Law.test_law


def test_every_public_name_exists() -> None:
    for name in subjectgen.testing.__all__:
        assert getattr(subjectgen.testing, name) is not None
    with pytest.raises(AttributeError, match="Nothing"):
        subjectgen.testing.Nothing  # noqa: B018


PART = """
from subjectgen.core import ChangesResults, Config
class Part:
    "A part."
    class Config(Config):
        "Options."
        rate: ChangesResults[float] = 1.0
        "A rate."
@hookimpl
def subjectgen_metrics(): return [Component(name="part", target="acme_good:Part", summary="s")]
"""


def test_plugin_contract_on_a_plugin_outside(
    install: Any, broken_laws: BrokenLaws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good plugin passes all; one with an undocumented option, torch at import and a wrong entry fails these."""
    bad = PART.replace('"A rate."', "").replace("class Part", "import torch\nclass Part").replace("good", "bad")
    install("acme-good", PART)
    install("acme-bad", bad, entry="other")
    (tmp_path / "site" / "torch.py").touch()  # the law starts a process: there, this one is found and is quick
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    assert plugin_laws(broken_laws, "acme-good") == set()
    assert plugin_laws(broken_laws, "acme-bad") == {
        "test_entry_point_is_named_as_the_distribution",
        "test_targets_import",
        "test_discovery_is_light",
    }


def plugin_laws(broken_laws: BrokenLaws, name: str) -> set[str]:
    contract = type("Named", (PluginContract,), {"distribution": name})()
    (entry,) = distribution(name).entry_points
    host = Plugins.empty()
    host.register(entry.load(), distribution=name)
    return broken_laws(contract, entry=entry, plugin=host.plugins[0])
