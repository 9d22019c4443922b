"""A plugin built for another core is known by its metadata alone."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

from subjectgen.core.compatibility import core_version, mismatch
from subjectgen.core.plugins import Plugins


def metadata(folder: Path, *requires: str, name: str = "acme-parts") -> Path:
    """Write what an installer leaves of a distribution."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(exist_ok=True)
    lines = [f"Requires-Dist: {text}\n" for text in requires]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{''.join(lines)}")
    return info


@pytest.mark.parametrize(
    ("requirement", "installed", "works"),
    [
        ("subjectgen-core>=0.1,<0.2", "0.1.0", True),
        ("subjectgen-core<0.2,>=0.1", "0.1.7", True),
        ("subjectgen-core>=0.1,<0.2", "0.2.0", False),
        ("subjectgen-core>=0.2,<0.3", "0.1.0", False),
        ("subjectgen-core>=0.1,<0.3", "0.2.0rc1", True),
        ("subjectgen-core>=0.2", "0.2.0.dev1", False),
        ("Subjectgen_Core>=9", "0.1.0", False),
        ("subjectgen-core[testing]>=9", "0.1.0", False),
        ('subjectgen-core[testing]>=9; extra == "test"', "0.1.0", True),
        ('subjectgen-core>=9; python_version < "3"', "0.1.0", True),
        ("subjectgen-core", "0.1.0", True),
        ("subjectgen-core-extras>=9", "0.1.0", True),
        ("torch>=900", "0.1.0", True),
    ],
)
def test_only_what_is_required_of_the_core_counts(
    tmp_path: Path, requirement: str, installed: str, works: bool
) -> None:
    found = mismatch(Distribution.at(metadata(tmp_path, "jaxtyping", requirement)), installed)
    assert (found is None) == works


def test_the_message_says_what_it_was_built_for_and_what_to_do(tmp_path: Path) -> None:
    distribution = Distribution.at(metadata(tmp_path, "subjectgen-core<10,>=9"))
    expected = "built for subjectgen-core >=9,<10; installed is 0.1.0: pip install -U acme-parts"
    assert mismatch(distribution, "0.1.0") == f"{expected} (what changed: docs/how-to/upgrade.md)"


def test_a_distribution_that_requires_nothing_is_let_in(tmp_path: Path) -> None:
    assert mismatch(Distribution.at(metadata(tmp_path)), "0.1.0") is None


def test_the_installed_core_is_asked(tmp_path: Path) -> None:
    """These tests run with the core installed; its own version fits, one far away does not."""
    installed = core_version()
    assert installed is not None
    assert mismatch(Distribution.at(metadata(tmp_path, f"subjectgen-core=={installed}"))) is None
    assert mismatch(Distribution.at(metadata(tmp_path, f"subjectgen-core!={installed}"))) is not None


@pytest.mark.parametrize(
    ("requirement", "error"),
    [
        ("subjectgen-core>=900", f"built for subjectgen-core >=900; installed is {core_version()}: pip install -U"),
        ("subjectgen-core >=> 1", "InvalidRequirement: "),
    ],
)
def test_the_host_reports_it_and_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Any, requirement: str, error: str
) -> None:
    info = metadata(tmp_path, requirement)
    (info / "entry_points.txt").write_text("[subjectgen]\nacme-parts = acme_parts\n")
    (tmp_path / "acme_parts.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    install("good", "@hookimpl\ndef subjectgen_metrics(): return []")
    plugins = Plugins.discover({})
    (broken,) = (one for one in plugins.broken if one.distribution == "acme-parts")
    assert broken.version == "1.2"
    assert broken.error.startswith(error)
    assert "acme_parts" not in sys.modules
    assert "good" in plugins.distributions()
