"""Every distribution declares what its files import, also inside functions, where no test may come by.

What nobody imports by name but something needs, ``nox -s alone`` finds: it runs each in an environment of its own.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECTS = {path.parent.name: path.parent for path in sorted(ROOT.glob("p*/*/pyproject.toml"))}
FOUND_BY = packages_distributions()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(project: dict[str, Any]) -> set[str]:
    """Names of all requirements, extras' too."""
    extras = (requirement for extra in project.get("optional-dependencies", {}).values() for requirement in extra)
    return {canonical(re.split(r"[^\w.-]", text)[0]) for text in (*project["dependencies"], *extras)}


def imported(source: str) -> set[str]:
    """First words of all absolute imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"subjectgen"}  # siblings: test_repository.py


def undeclared(source: str, names: set[str]) -> set[str]:
    return {word for word in imported(source) if not names & {canonical(name) for name in FOUND_BY.get(word, [word])}}


@pytest.mark.parametrize("name", PROJECTS)
def test_everything_imported_is_declared(name: str) -> None:
    project = tomllib.loads((PROJECTS[name] / "pyproject.toml").read_text())["project"]
    names = declared(project) | {name}
    missing = {
        str(path.relative_to(ROOT)): words
        for path in sorted((PROJECTS[name] / "src").rglob("*.py"))
        if (words := undeclared(path.read_text(encoding="utf-8"), names))
    }
    assert not missing


def test_this_test_can_fail() -> None:
    source = "import json\nfrom pathlib import Path\ndef late():\n    from PIL import Image\n    import torch.nn\n"
    assert undeclared(source, {"torch"}) == {"PIL"}
    assert undeclared(source, {"torch", "pillow"}) == set()
