"""What lives in plugins/ is built as a third party would build it: only on what is public."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = {path.parent.name: path.parent for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))}
each_plugin = pytest.mark.parametrize("name", PLUGINS)


PUBLIC = ("subjectgen.core", "subjectgen.core.weights", "subjectgen.core.aggregating")
"""Modules whose names are promised to stay (docs/reference/core.md)."""


def imported(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of everything imported anywhere, also inside functions; the name is empty for ``import a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)


def private(source: str) -> list[str]:
    """Imports of ours that are not public names of core."""
    public = {name: set(import_module(name).__all__) for name in PUBLIC}
    ours = [(module, name) for module, name in imported(source) if module.partition(".")[0] == "subjectgen"]
    return [f"{module}: {name}" for module, name in ours if name not in public.get(module, ())]


def test_there_are_plugins() -> None:
    assert "subjectgen-dynaip" in PLUGINS


@each_plugin
def test_a_plugin_imports_only_public_names_of_core(name: str) -> None:
    for path in sorted((PLUGINS[name] / "src").rglob("*.py")):
        assert private(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize(
    "source",
    [
        "from subjectgen.core.files import atomic_write",
        "from subjectgen.backbones.flux import FluxBackbone",
        "def f():\n    import subjectgen.runner",
        "from subjectgen.core import _LAZY",
        "from subjectgen.core.weights import hub",
    ],
)
def test_this_test_can_fail(source: str) -> None:
    assert private(source)


@each_plugin
def test_a_plugin_depends_on_core_alone(name: str) -> None:
    project = tomllib.loads((PLUGINS[name] / "pyproject.toml").read_text())["project"]
    ours = [requirement for requirement in project["dependencies"] if requirement.startswith("subjectgen")]
    assert len(ours) == 1
    assert ours[0].startswith("subjectgen-core>=")
    assert set(project["entry-points"]["subjectgen"]) == {name} == {project["name"]}


@each_plugin
def test_a_plugin_is_whole(name: str) -> None:
    for required in ("README.md", "LICENSE", "src", "tests"):
        assert (PLUGINS[name] / required).exists(), required
    assert (PLUGINS[name] / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


MAY_NAME_PLUGINS = {ROOT / "packages" / "subjectgen" / name for name in ("pyproject.toml", "README.md")}
"""The runner has an extra for each."""


def test_packages_know_nothing_of_the_plugins() -> None:
    """No file under packages/ mentions one by name, but for the runner's extras."""
    words = [name.removeprefix("subjectgen-").encode() for name in PLUGINS]
    for path in sorted(set((ROOT / "packages").rglob("*")) - MAY_NAME_PLUGINS):
        if path.is_file() and "__pycache__" not in path.parts:
            text = path.read_bytes().lower()
            assert not any(word in text for word in words), path


def test_the_runner_names_plugins_in_extras_only() -> None:
    project = tomllib.loads((ROOT / "packages" / "subjectgen" / "pyproject.toml").read_text())["project"]
    extras = project.pop("optional-dependencies")
    assert not any(name.removeprefix("subjectgen-") in str(project) for name in PLUGINS)
    assert set(extras["all"]) == {f"subjectgen[{','.join(sorted(set(extras) - {'all'}))}]"}
    for name in PLUGINS:
        (requirement,) = extras[name.removeprefix("subjectgen-")]
        assert requirement.startswith(name)


def test_shipped_weights_are_small_and_whole() -> None:
    """At most 10 MB, safetensors only, every folder with checksums that fit."""
    from subjectgen.core.weights import verify

    weights = ROOT / "plugins" / "subjectgen-dynaip" / "src" / "subjectgen_dynaip" / "weights"
    files = [path for path in weights.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jsonl", ".yaml", ""}
    folders = {path.parent for path in files if path.suffix == ".safetensors"}
    assert {folder.name for folder in folders} == {"clip", "dynaip"}
    for folder in folders:
        assert (folder / "SHA256SUMS").is_file()
        for path in folder.glob("*.safetensors"):
            verify(path)
