"""The command line and discovery never pay for torch, and a test that these tests can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(
    ".".join(path.relative_to(path.parents[2]).with_suffix("").parts)
    for path in ROOT.glob("packages/*/src/subjectgen/*/plugin.py")
    if path.parent.name != "testing"  # there it is a contract
)
POISON = "raise RuntimeError('torch was imported')\n"
HEAVY = ("torch", "transformers", "diffusers", "peft", "accelerate")


@pytest.fixture
def poisoned(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing anything heavy raises."""
    for name in HEAVY:
        (tmp_path / f"{name}.py").write_text(POISON)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("module", ["subjectgen.core", "subjectgen.core.config", "subjectgen.core.plugins", *PLUGINS])
def test_importing_is_light(poisoned: dict[str, str], module: str) -> None:
    done = run(poisoned, "-c", f"import {module}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["data", "check", "--help"], ["plugins"], ["plugins", "--json"], ["components"]],
    ids=" ".join,
)
def test_the_command_line_is_light(poisoned: dict[str, str], arguments: list[str]) -> None:
    done = run(poisoned, "-m", "subjectgen.runner", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("module", ["subjectgen.core.streams", "subjectgen.core.images"])
def test_this_test_can_fail(poisoned: dict[str, str], module: str) -> None:
    done = run(poisoned, "-c", f"import {module}")
    assert done.returncode != 0
    assert "torch was imported" in done.stderr
