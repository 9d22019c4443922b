"""The conformance kit: what a failing law shows, contracts that cannot be replaced, and a plugin from outside."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import subjectgen.testing
from subjectgen.testing.base import Contract

pytest_plugins = ["pytester"]


def failed_tests(pytester: pytest.Pytester, source: str) -> set[str]:
    """Run a test file in a process of its own and return the tests that failed, as ``Class::test``."""
    pytester.makepyfile(source)
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-rfE")
    lines = [line for line in result.outlines if line.startswith(("FAILED", "ERROR"))]
    return {"::".join(line.split()[1].split("::")[1:]) for line in lines}


def test_a_failing_law_shows_its_values(pytester: pytest.Pytester) -> None:
    """The kit's asserts are rewritten, or the report would say no more than AssertionError."""
    pytester.makepyfile(
        dedent("""
        import pytest
        from subjectgen.testing import DatasetContract

        class TestBad(DatasetContract):
            @pytest.fixture
            def dataset(self): return []
        """)
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*assert 0 > 0*"])


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


def test_plugin_contract_on_a_plugin_outside(install: Any, tmp_path: Path, pytester: pytest.Pytester) -> None:
    """A good plugin passes all; one with an undocumented option, torch at import and a wrong entry fails these."""
    good = """
    from subjectgen.core import Config
    class Part:
        "A part."
        class Config(Config):
            "Options."
            rate: float = 1.0
            "A rate."
    @hookimpl
    def subjectgen_metrics(): return [Component(name="part", target="acme_good:Part", summary="s")]
    """
    bad = good.replace('"A rate."', "").replace("class Part", "import torch\n    class Part").replace("good", "bad")
    install("acme-good", good)
    install("acme-bad", bad, entry="other")
    pytester.syspathinsert(tmp_path / "site")
    pytester._monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    contract = "from subjectgen.testing import PluginContract\nclass TestIt(PluginContract): distribution = {!r}"
    assert failed_tests(pytester, contract.format("acme-good")) == set()
    assert failed_tests(pytester, contract.format("acme-bad")) == {
        "TestIt::test_entry_point_is_named_as_the_distribution",
        "TestIt::test_targets_import",
        "TestIt::test_discovery_is_light",
    }
