"""What can be run: ``nox -l`` lists it, ``nox -s demo`` shows it, ``nox`` checks it.

Environments are made by uv where it is installed beside nox (``pip install nox[uv]``), else by virtualenv and pip.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "types"]
nox.options.default_venv_backend = "uv|virtualenv"

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
RUNNER = "subjectgen"

# Compiled modules are kept in one place, also where the caller keeps none: without them every process that imports
# torch and its friends compiles them again, which takes longer than most tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / ".nox" / "pycache"))


def install(session: nox.Session, *arguments: str) -> None:
    session.install(*CONSTRAINTS, *arguments, env=pips_index() if uses_uv(session) else {})


def install_wheels(session: nox.Session, *arguments: str) -> None:
    """As ``install``, with our own wheels beside the index."""
    # pip would compile all of torch, which takes longer than the tests; uv compiles nothing unless told, but takes a
    # wheel of the same name and version from its cache, though it was built anew
    anew = [word for name in ALL for word in ("--refresh-package", name)]
    options = anew if uses_uv(session) else ["--no-compile"]
    install(session, *options, "--find-links", str(WHEELS), *arguments)


def install_all(session: nox.Session, *tools: str, testing: bool = False) -> None:
    """All packages and plugins from their folders, in one command: none of them is on an index."""
    install(session, "torch")  # alone and first, so that nothing pulls another build of it
    extras = dict.fromkeys(("subjectgen-core", *PLUGINS), "[testing]") if testing else {}
    extras |= {"subjectgen-datasets": "[parquet]"} if testing else {}
    folders = [argument for name, path in ALL.items() for argument in ("-e", f"{path}{extras.get(name, '')}")]
    install(session, *folders, *tools)


def uses_uv(session: nox.Session) -> bool:
    return session.venv_backend == "uv"


@functools.cache
def pips_index() -> dict[str, str]:
    """uv reads none of pip's settings: this machine's indexes, folders of wheels and certificates, in its variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    pairs = (line.partition("=") for line in listed.splitlines())
    settings = {name.rpartition(".")[2]: " ".join(shlex.split(value)).split() for name, _, value in pairs}
    found = {
        "UV_DEFAULT_INDEX": " ".join(settings.get("index-url", [])),
        "UV_INDEX": " ".join(settings.get("extra-index-url", [])),
        "UV_FIND_LINKS": ",".join(settings.get("find-links", [])),
        "UV_CONSTRAINT": " ".join(settings.get("constraint", [])),
        "UV_INDEX_STRATEGY": "unsafe-best-match" if "extra-index-url" in settings else "",
        "SSL_CERT_FILE": " ".join(settings.get("cert", [])),
    }
    return {name: value for name, value in found.items() if value and name not in os.environ}


@nox.session(reuse_venv=True)
def tests(session: nox.Session) -> None:
    """Every test of every package and plugin, and those that need all of them. Arguments go to pytest.

    Without arguments all but the template's, which has a session of its own.
    """
    install_all(session, "copier", "hatchling", "pip", "pytest-xdist", "ruff", "tensorboard", testing=True)
    chosen = session.posargs or ("--ignore", "tests/test_template.py")
    session.run("pytest", *parallel(), *chosen, env=environment())


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
    install(session, "hatchling", "pip")
    shutil.rmtree(WHEELS, ignore_errors=True)
    paths = [str(path) for path in ALL.values()]
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(WHEELS), *paths)


@nox.session(requires=["wheels"])
def alone(session: nox.Session) -> None:
    """Each package from its wheel, with what it declares and no more: is that all it needs? ``-- NAME`` for some.

    One environment that becomes each of them in turn, so that torch, and what Python compiled of it, stays.
    """
    install_wheels(session, "torch")
    base = installed(session)
    for distribution in session.posargs or ALL:
        become(session, distribution, base)
        session.run("python", str(ROOT / "tests" / "import_all.py"), distribution)
        if distribution == RUNNER:
            with session.chdir(session.create_tmp()):
                session.run("subjectgen", "plugins")
                where = "from importlib.resources import files; print(files('subjectgen.runner') / 'experiments')"
                experiments = str(session.run("python", "-c", where, silent=True)).strip()
                session.run("subjectgen", "check", f"{experiments}/toybox/demo.yaml", silent=True)
        else:
            test_alone(session, distribution)


def become(session: nox.Session, distribution: str, base: list[str]) -> None:
    """The environment holds this distribution with its dependencies, and nothing of the one before."""
    if uses_uv(session):
        install_wheels(session, "--exact", distribution)
        return
    others = sorted(set(installed(session)) - set(base))
    if others:
        session.run("python", "-m", "pip", "uninstall", "-q", "-y", *others)
    install_wheels(session, distribution)


def installed(session: nox.Session) -> list[str]:
    """Names of all distributions in the environment."""
    listing = "import importlib.metadata as m; print(*{d.metadata['Name'] for d in m.distributions()})"
    return str(session.run("python", "-c", listing, silent=True, log=False)).split()


def test_alone(session: nox.Session, distribution: str) -> None:
    """Its own tests. The test tools come only now: they would hide a dependency that is not declared."""
    needed = [f"{distribution}[testing]"] if distribution in PLUGINS else []
    install_wheels(session, "subjectgen-core[testing]", *needed, "pytest-xdist")
    tests = str(ALL[distribution] / "tests")
    few = {"SUBJECTGEN_EXAMPLES": "2"}  # what is missing, is missing in any of them
    session.run("pytest", "-m", "not slow", *parallel(), tests, env=environment() | few)


@nox.session(requires=["wheels"])
def template(session: nox.Session) -> None:
    """Render every kind of plugin, install it beside our wheels, run its tests and its experiment."""
    install_wheels(session, "torch")
    install_wheels(session, "copier")
    plugin = Path(session.create_tmp()).resolve() / "plugin"
    shutil.rmtree(plugin, ignore_errors=True)
    answers = ("--data", "kind=metric", "--data", "name=first_metric")
    session.run("copier", "copy", "--quiet", "--defaults", *answers, str(TEMPLATE), str(plugin))
    # What a plugin declares is all that the others' tests have, but for the tools that render and install.
    install_wheels(session, f"{plugin}[testing]", "hatchling", "pip", "pytest-xdist")
    session.run("pytest", *parallel(), "tests/test_template.py", *session.posargs, env=environment())


@nox.session(reuse_venv=True)
def benchmarks(session: nox.Session) -> None:
    """Print every table of tests/benchmarks."""
    install_all(session, testing=True)
    for path in sorted(ROOT.glob("tests/benchmarks/[!_]*.py")):
        session.run("python", str(path), *session.posargs)


@nox.session(reuse_venv=True)
def torture(session: nox.Session) -> None:
    """Kill trainings with ``kill -9`` and compare what comes of them; ``-- --kills 200 --out log.json``."""
    install_all(session, testing=True)
    session.run("python", "tests/torture/run.py", *session.posargs, env=environment())


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
    return ["-n", "auto", "--dist", "worksteal"]
