"""The runner's rooms: each uses only rooms below it, nobody climbs, and no class outgrows a screen or two."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

RUNNER = Path(__file__).parents[1] / "packages" / "subjectgen" / "src" / "subjectgen" / "runner"
MAY_USE = {
    "system": set(),
    "generation": {"system"},
    "training": {"system", "generation"},
    "evaluation": {"system", "generation"},
    "reports": {"evaluation"},
    "data": {"system"},
    "planning": {"system", "generation", "training"},
    "cli": {"system", "generation", "training", "evaluation", "reports", "planning", "data"},
}
"""Rooms that each room may import. Nobody but the command line imports planning."""
MODELS = ("torch", "transformers", "diffusers", "peft", "accelerate")


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def rooms_of(names: Iterator[str]) -> set[str]:
    prefix = "subjectgen.runner."
    return {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}


def test_every_room_is_known() -> None:
    assert {path.name for path in RUNNER.iterdir() if (path / "__init__.py").is_file()} == set(MAY_USE)
    assert {path.name for path in RUNNER.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("room", MAY_USE)
def test_no_import_climbs(room: str) -> None:
    for file in sorted((RUNNER / room).rglob("*.py")):
        climbing = rooms_of(imports(file)) - {room} - MAY_USE[room]
        assert not climbing, f"{file.relative_to(RUNNER)} imports {sorted(climbing)}"


@pytest.mark.parametrize("room", MAY_USE)
def test_no_circle_inside_a_room(room: str) -> None:
    prefix = f"subjectgen.runner.{room}."
    arrows = {
        file.stem: {name.removeprefix(prefix).split(".")[0] for name in imports(file) if name.startswith(prefix)}
        for file in (RUNNER / room).glob("*.py")
    }
    while arrows:
        free = {name for name, uses in arrows.items() if not uses & (arrows.keys() - {name})}
        assert free, f"{room}: a circle among {sorted(arrows)}"
        arrows = {name: uses for name, uses in arrows.items() if name not in free}


def test_reports_import_no_model() -> None:
    for file in (RUNNER / "reports").rglob("*.py"):
        assert not [name for name in imports(file) if name.partition(".")[0] in MODELS], file


def test_a_climb_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / "low.py"
    file.write_text("from subjectgen.runner.cli.main import main\n")
    assert rooms_of(imports(file)) == {"cli"}


def test_no_class_of_the_runner_has_150_lines() -> None:
    for file in RUNNER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.end_lineno is not None:
                assert node.end_lineno - node.lineno < 150, f"{file.name}: {node.name}"
