"""What can be run: ``nox -l`` lists it, ``nox -s demo`` shows it, ``nox`` checks it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "types"]
nox.options.default_venv_backend = "virtualenv"

ROOT = Path(__file__).parent
PACKAGES = {path.parent.name: path.parent for path in sorted(ROOT.glob("packages/*/pyproject.toml"))}
PLUGINS = {path.parent.name: path.parent for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))}
"""Distributions that a third party might have written: they know only what is public."""
ALL = PACKAGES | PLUGINS
MODULES = sorted(f"subjectgen.{path.parent.name}" for path in ROOT.glob("packages/*/src/subjectgen/*/__init__.py"))
PLUGIN_MODULES = sorted(path.parent.name for path in ROOT.glob("plugins/*/src/*/__init__.py"))
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
WHEELS = ROOT / ".nox" / "wheelhouse"
TEMPLATE = ROOT / "plugins" / "template"


def shapes(module: str) -> str:
    """Shapes in signatures are checked in tests; an int is a float, as for mypy."""
    return f"--jaxtyping-packages={module},beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"


def install(session: nox.Session, *names: str) -> None:
    session.install(*CONSTRAINTS, *names)


def install_all(session: nox.Session, *tools: str, testing: bool = False) -> None:
    """All packages and plugins from their folders, in one command: none of them is on an index."""
    install(session, "torch")  # alone and first, so that nothing pulls another build of it
    extras = dict.fromkeys(("subjectgen-core", *PLUGINS), "[testing]") if testing else {}
    folders = [argument for name, path in ALL.items() for argument in ("-e", f"{path}{extras.get(name, '')}")]
    install(session, *folders, *tools)


@nox.session(reuse_venv=True)
def tests(session: nox.Session) -> None:
    """Every test of every package and plugin, and those that need all of them. Arguments go to pytest."""
    install_all(session, "copier", "hatchling", "pytest-xdist", "ruff", testing=True)
    session.run("pytest", shapes("subjectgen"), *parallel(), *session.posargs, env=environment())
    if not session.posargs:
        for module, path in zip(PLUGIN_MODULES, PLUGINS.values(), strict=True):
            session.run("pytest", shapes(module), *parallel(), str(path / "tests"), env=environment())


@nox.session(reuse_venv=True)
def demo(session: nox.Session) -> None:
    """Generate the contact sheet and its page; ``-- --reference my.jpg --prompt "..."`` for your own picture."""
    install_all(session)
    session.run("python", "-m", "subjectgen.runner", "demo", *session.posargs)


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Style of all Python files."""
    install(session, "ruff")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session(reuse_venv=True)
def types(session: nox.Session) -> None:
    """Types of all packages, strictly."""
    install_all(session, "mypy", testing=True)
    sources = os.pathsep.join(str(path / "src") for path in ALL.values())
    arguments = [argument for module in MODULES + PLUGIN_MODULES for argument in ("-p", module)]
    session.run("mypy", *arguments, *session.posargs, env={"MYPYPATH": sources})


@nox.session(reuse_venv=True)
def wheels(session: nox.Session) -> None:
    """Build a wheel of every package."""
    install(session, "hatchling")
    shutil.rmtree(WHEELS, ignore_errors=True)
    paths = [str(path) for path in ALL.values()]
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(WHEELS), *paths)


@nox.session(requires=["wheels"])
@nox.parametrize("distribution", list(ALL), ids=list(ALL))
def alone(session: nox.Session, distribution: str) -> None:
    """One package from its wheel in an empty environment: does it declare all that it needs?"""
    quick = ("--no-compile", "--find-links", str(WHEELS))  # compiling all of torch takes longer than the tests
    install(session, *quick, "torch")
    install(session, *quick, distribution)
    if distribution == "subjectgen":
        session.run("subjectgen", "plugins")
    else:
        session.run("python", "-c", DISCOVER)
    # Only now the test tools: they would hide a dependency that is not declared.
    needed = [f"{distribution}[testing]"] if distribution in PLUGINS else []
    install(session, *quick, "subjectgen-core[testing]", *needed, "pytest-xdist", "hatchling")
    tests = str(ALL[distribution] / "tests")
    module = distribution.replace("-", "_") if distribution in PLUGINS else "subjectgen"
    session.run("pytest", shapes(module), "-m", "not slow", *parallel(), tests, *session.posargs, env=environment())


@nox.session(requires=["wheels"])
def template(session: nox.Session) -> None:
    """Render every kind of plugin, install all beside our wheels in an empty environment, run their own tests."""
    quick = ("--no-compile", "--find-links", str(WHEELS))
    install(session, *quick, "torch")
    install(session, *quick, "copier", "subjectgen")
    folder = Path(session.create_tmp()).resolve()
    plugins = [folder / path.name for path in sorted((TEMPLATE / "kinds").iterdir())]
    for plugin in plugins:
        shutil.rmtree(plugin, ignore_errors=True)
        data = ("--data", f"kind={plugin.name}", "--data", f"name=my_{plugin.name}")
        session.run("copier", "copy", "--quiet", "--defaults", *data, str(TEMPLATE), str(plugin))
    install(session, *quick, *(f"{plugin}[testing]" for plugin in plugins))
    session.run("subjectgen", "plugins")
    for plugin in plugins:
        session.chdir(plugin)
        session.run("ruff", "check")
        session.run("pytest", "-q", *session.posargs, env=environment())
        session.run("subjectgen", "check", "experiment.yaml", silent=True)


DISCOVER = """
from subjectgen.core.plugins import Plugins
plugins = Plugins.discover()
assert not plugins.broken, [str(broken) for broken in plugins.broken]
print(*plugins.plugins, sep="\\n")
"""


@nox.session(reuse_venv=True)
def benchmarks(session: nox.Session) -> None:
    """Print every table of tests/benchmarks."""
    install_all(session, testing=True)
    for path in sorted(ROOT.glob("tests/benchmarks/[!_]*.py")):
        session.run("python", str(path), *session.posargs)


@nox.session(reuse_venv=True)
def gpu(session: nox.Session) -> None:
    """Speed and memory at full size on the GPU that is here; arguments go to tests/gpu/run.py. Needs CUDA.

    ``nox -s gpu --no-venv`` uses the torch that is installed; packages of this repository need not be.
    """
    if session.venv_backend != "none":
        install_all(session, testing=True)
    found = session.run(
        "python", "-c", "import torch; print(torch.cuda.is_available())", silent=True, success_codes=[0, 1]
    )
    if "True" not in str(found):
        why = "this Python has no torch" if "No module named" in str(found) else "torch.cuda.is_available() is false"
        session.skip(f"no GPU: {why}")
    sources = os.pathsep.join(str(path / "src") for path in PACKAGES.values())
    session.run("python", "-m", "pytest", "tests/gpu", "-m", "gpu", env={"PYTHONPATH": sources})
    session.run("python", "tests/gpu/run.py", *session.posargs)


def environment() -> dict[str, str]:
    """One thread per worker; the folder of real photos, if the caller has one."""
    dreambench = os.environ.get("SUBJECTGEN_DREAMBENCH")
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return threads | ({"SUBJECTGEN_DREAMBENCH": str(Path(dreambench).resolve())} if dreambench else {})


def parallel() -> list[str]:
    return ["-n", "auto", "--dist", "loadfile"]
