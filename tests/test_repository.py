"""Facts about the repository that no package can check alone."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import subjectgen.core
import subjectgen.testing
from subjectgen.core import KINDS
from subjectgen.core.first_party import OWNERS
from subjectgen.core.plugins import Plugins

ROOT = Path(__file__).parents[1]
PACKAGES = {path.parent.name: path.parent for path in sorted(ROOT.glob("packages/*/pyproject.toml"))}
PROJECTS: dict[str, dict[str, Any]] = {
    name: tomllib.loads((path / "pyproject.toml").read_text())["project"] for name, path in PACKAGES.items()
}
REFERENCE = ROOT / "docs" / "reference"
KNOWS_ALL_KINDS = "subjectgen"
"""The runner: the one distribution that depends on several others."""

each_package = pytest.mark.parametrize("name", PACKAGES)


def modules(name: str) -> list[Path]:
    """First-party modules of a distribution, ``src/subjectgen/<module>``."""
    return sorted(path for path in (PACKAGES[name] / "src" / "subjectgen").iterdir() if path.is_dir())


def plugin_files(name: str) -> list[Path]:
    """``plugin.py`` of a distribution; in the conformance kit it is a contract."""
    return [path for module in modules(name) if module.name != "testing" for path in module.glob("plugin.py")]


def source_files() -> Iterator[Path]:
    for folder in ("packages", "plugins", "tests", "docs", "experiments", ".ci"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.name not in (".coverage", ".git"))


def imported(path: Path) -> Iterator[str]:
    """Absolute names that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


OWNER_OF_MODULE = {f"subjectgen.{path.name}": name for name in PACKAGES for path in modules(name)}


# --------------------------------------------------------------------------------------------- distributions


@each_package
def test_folder_is_distribution_is_entry_point(name: str) -> None:
    project = PROJECTS[name]
    assert project["name"] == name
    entries = project.get("entry-points", {}).get("subjectgen", {})
    assert set(entries) == ({name} if plugin_files(name) else set())
    for module in entries.values():
        assert (PACKAGES[name] / "src" / Path(*module.split("."))).with_suffix(".py").is_file()


@each_package
def test_the_namespace_has_no_init(name: str) -> None:
    """One would hide every other distribution in an editable install, and only there."""
    assert not (PACKAGES[name] / "src" / "subjectgen" / "__init__.py").exists()


@each_package
def test_every_distribution_is_whole(name: str) -> None:
    for required in ("README.md", "LICENSE", "src", "tests"):
        assert (PACKAGES[name] / required).exists(), required
    assert (PACKAGES[name] / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert PROJECTS[name]["license"] == "Apache-2.0"
    for module in modules(name):
        assert (module / "py.typed").is_file(), module
        assert ast.get_docstring(ast.parse((module / "__init__.py").read_text())), module


def test_one_version_for_all() -> None:
    assert len({project["version"] for project in PROJECTS.values()}) == 1


@each_package
def test_first_party_dependencies_follow_the_version(name: str) -> None:
    major, minor, _ = PROJECTS[name]["version"].split(".")
    expected = f">={major}.{minor},<{major}.{int(minor) + 1}"
    for requirement in first_party(name):
        assert requirement.partition(">=")[1:] == expected.partition(">=")[1:], requirement


def first_party(name: str) -> list[str]:
    return [text for text in PROJECTS[name]["dependencies"] if text.startswith("subjectgen")]


def declared(name: str) -> set[str]:
    return {re.split(r"[^\w-]", text)[0] for text in first_party(name)}


# ----------------------------------------------------------------------------------------------- dependencies


@each_package
def test_dependencies_point_one_way(name: str) -> None:
    """All to core; only the runner knows several kinds."""
    if name == "subjectgen-core":
        assert declared(name) == set()
    elif name != KNOWS_ALL_KINDS:
        assert declared(name) <= {"subjectgen-core"}


@each_package
def test_nobody_imports_an_undeclared_sibling(name: str) -> None:
    allowed = declared(name) | {name}
    for path in sorted((PACKAGES[name] / "src").rglob("*.py")):
        for module in imported(path):
            owner = OWNER_OF_MODULE.get(".".join(module.split(".")[:2]))
            assert owner is None or owner in allowed, f"{path} imports {module} of {owner}"


@each_package
def test_plugin_modules_import_only_core(name: str) -> None:
    """Light at import: the rest is imported when an experiment uses it."""
    for path in plugin_files(name):
        foreign = {module for module in imported(path) if module.partition(".")[0] not in ("__future__", "collections")}
        assert all(module.startswith("subjectgen.core") for module in foreign), foreign


# ------------------------------------------------------------------------------------------ extension points


@pytest.mark.parametrize("kind", KINDS)
def test_each_hook_has_a_spec_documentation_and_a_contract(kind: str) -> None:
    from subjectgen.core import hookspecs

    hook, contract = f"subjectgen_{kind}", f"{kind[:-1].capitalize()}Contract"
    assert getattr(hookspecs, hook).__doc__
    documentation = (REFERENCE / "hooks.md").read_text()
    assert f"\n## {hook}\n" in documentation
    assert f"`{contract}`" in documentation
    assert contract in subjectgen.testing.__all__
    assert getattr(subjectgen.testing, contract).__doc__


def test_there_is_no_hook_without_a_kind() -> None:
    from subjectgen.core import hookspecs

    assert {name for name in vars(hookspecs) if name.startswith("subjectgen_")} == {f"subjectgen_{k}" for k in KINDS}


@pytest.mark.parametrize("module", [subjectgen.core, subjectgen.testing], ids=lambda module: module.__name__)
def test_public_names_are_documented(module: Any) -> None:
    documentation = (REFERENCE / "core.md").read_text()
    missing = [name for name in module.__all__ if f"`{name}`" not in documentation]
    assert not missing
    documented = [name for name in module.__all__ if name not in ("KINDS", "EVERYTHING", "NOTHING", "Encoded")]
    assert all(getattr(module, name).__doc__ for name in documented)


def test_known_owners_are_what_the_distributions_offer() -> None:
    plugins = Plugins.discover({})
    offered = {
        (kind, offer.component.name): offer.distribution
        for kind in KINDS
        for offer in plugins.offers(kind)
        if offer.distribution in PACKAGES
    }
    assert {(kind, name): owner for kind in KINDS for name, owner in OWNERS[kind].items()} == offered


def test_every_first_party_plugin_works() -> None:
    plugins = Plugins.discover({})
    expected = {name for name, project in PROJECTS.items() if "subjectgen" in project.get("entry-points", {})}
    assert expected <= set(plugins.distributions())
    assert not [broken for broken in plugins.broken if broken.distribution in PACKAGES]


# ------------------------------------------------------------------------------------------------------- style


def test_no_python_file_is_longer_than_500_lines() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in source_files() if path.suffix == ".py"}
    assert not {str(path): length for path, length in lengths.items() if length > 500}


MACHINE_PATHS = re.compile(r"(?<![\w.$}/])/(?:home|root|Users|mnt|opt|tmp|work)/\w")
UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "raise NotImplemented" + "Error")))
TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".json", ".jsonl", ".txt", ".html", "")


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, UNFINISHED], ids=["machine paths", "unfinished"])
def test_no_file_contains(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in source_files()
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_the_search_for_machine_paths_can_find_one() -> None:
    assert MACHINE_PATHS.search("open('" + "/ho" + "me/someone/x')")
    assert not MACHINE_PATHS.search("https://example.org/home/x and ./tmp/x")


def test_no_experiment_names_an_import_path() -> None:
    """YAML holds names, never import paths."""
    for path in (ROOT / "experiments").rglob("*.yaml"):
        assert not re.search(r":\s*[a-z_]+(\.[a-z_]+)+:[A-Z]", path.read_text()), path
