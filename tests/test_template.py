"""Every kind of plugin that the template makes is installed by pip, keeps its contract and works in an experiment.

The how-to's commands are run as a reader would run them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from subprocess import CompletedProcess
from typing import TypeAlias

import copier
import pytest
import yaml

from subjectgen.core.config import load

Run: TypeAlias = Callable[[str, Path, Path], str]

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "plugins" / "template"
HOW_TO = (ROOT / "docs" / "how-to" / "write-a-plugin.md").read_text(encoding="utf-8")
NAMES = {
    "aggregator": "layer_mean",
    "encoder": "colour_grid",
    "autoencoder": "mean_pool",
    "injector": "scaled_context",
    "backbone": "small_flow",
    "schedule": "linear_ramp",
    "metric": "colour_distance",
    "dataset": "picture_pairs",
    "finder": "whole_picture",
}
FENCED = re.compile(r"^```\w*\n(.*?)^```$", flags=re.M | re.S)
each_kind = pytest.mark.parametrize("kind", NAMES)


def render(kind: str, folder: Path, **answers: str) -> Path:
    """Render one plugin; questions without an answer take their defaults."""
    data = {"kind": kind, "name": NAMES[kind], **answers}
    copier.run_copy(str(TEMPLATE), str(folder), data=data, defaults=True, quiet=True)
    return folder


@pytest.fixture
def run(warm_python: Callable[..., CompletedProcess[str]]) -> Run:
    """Run a command line in a folder, with what ``site`` has installed; pytest and subjectgen in a warm process."""
    modules = {"pytest": "pytest", "subjectgen": "subjectgen.runner"}

    def run(command: str, folder: Path, site: Path) -> str:
        program, *arguments = shlex.split(command)
        if program in modules:
            done = warm_python("-m", modules[program], *arguments, folder=folder, site=site)
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            environment = {**os.environ, "PATH": path}
            words = {"shell": True, "env": environment, "cwd": folder, "capture_output": True, "text": True}
            done = subprocess.run(command, check=False, **words)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return f"{done.stdout}{done.stderr}"

    return run


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One plugin of each kind."""
    folder = tmp_path_factory.mktemp("rendered")
    return {kind: render(kind, folder / kind, author='Ada "L" O\'Hara \\ Ω') for kind in NAMES}


@pytest.fixture(scope="module")
def site(rendered: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, pip_install: Callable[..., None]) -> Path:
    """A folder into which pip has installed all of them."""
    site = tmp_path_factory.mktemp("site")
    pip_install(site, *rendered.values())
    return site


# ------------------------------------------------------------------------------------------- every rendered plugin


@pytest.mark.slow
@each_kind
def test_its_own_tests_pass(run: Run, kind: str, rendered: dict[str, Path], site: Path) -> None:
    assert " passed" in run("pytest -q -p no:cacheprovider", rendered[kind], site)


@pytest.mark.slow
@each_kind
def test_its_experiment_passes_check_and_uses_it(run: Run, kind: str, rendered: dict[str, Path], site: Path) -> None:
    tree = run("subjectgen check experiment.yaml --json", rendered[kind], site)
    resolved, _ = json.JSONDecoder().raw_decode(tree)  # what may follow is the command's other stream
    assert f'"name": "{NAMES[kind]}"' in json.dumps(resolved)


@pytest.mark.slow
def test_all_of_them_work_side_by_side(run: Run, site: Path, tmp_path: Path) -> None:
    tree = json.loads(run("subjectgen plugins --json", tmp_path, site))
    offered = {plugin["distribution"]: plugin["components"] for plugin in tree["plugins"]}
    for kind, name in NAMES.items():
        assert offered[f"subjectgen-{name.replace('_', '-')}"] == {f"{kind}s": [name]}


def test_style_holds_for_any_name(run: Run, tmp_path: Path) -> None:
    answers = [
        {},
        {"name": "a", "project": "acme-a"},
        {"name": "a_name_of_24_characters_", "project": "a-distribution-of-forty-characters-12345"},
    ]
    for kind in NAMES:
        for number, chosen in enumerate(answers):
            render(kind, tmp_path / f"{kind}-{number}", **chosen)
    run("ruff check --no-cache", tmp_path, tmp_path)
    run("ruff format --no-cache --check", tmp_path, tmp_path)


def test_nothing_of_the_template_is_left(rendered: dict[str, Path]) -> None:
    for folder in rendered.values():
        paths = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "workflows"]
        assert not [path for path in paths if "{" in path.name or path.suffix == ".jinja"]
        assert not [path for path in paths if re.search(r"\{[{%#]|[%#]\}\s", path.read_text(errors="ignore"))]
        assert "${{ matrix.python }}" in (folder / ".github" / "workflows" / "test.yml").read_text()


def test_a_blank_line_stands_before_every_heading_of_its_page(rendered: dict[str, Path]) -> None:
    for folder in rendered.values():
        lines = FENCED.sub("", (folder / "README.md").read_text(encoding="utf-8")).splitlines()
        headings = [number for number, line in enumerate(lines) if line.startswith("#") and number]
        assert headings
        assert all(not lines[number - 1] and lines[number - 2] for number in headings), folder


def test_it_can_be_made_again_from_its_answers(tmp_path: Path) -> None:
    """As ``copier recopy`` does when the template has changed: nothing is asked, the answers stay."""
    folder = render("metric", tmp_path / "mine", author="Ada")
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "README.md").write_text("lost")
    copier.run_recopy(str(folder), defaults=True, overwrite=True, quiet=True)
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    answers = yaml.safe_load((folder / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert answers | {"kind": "metric", "name": NAMES["metric"], "author": "Ada"} == answers


# ------------------------------------------------------------------------------------------ the template's own facts


def test_every_kind_is_a_hook_and_has_its_files() -> None:
    from subjectgen.core import KINDS

    choices = yaml.safe_load((TEMPLATE / "copier.yml").read_text())["kind"]["choices"]
    assert choices == list(NAMES)
    assert {f"{kind}s" for kind in choices} <= set(KINDS)
    assert {path.name for path in (TEMPLATE / "kinds").iterdir()} == set(choices)


def test_it_is_made_for_this_core(rendered: dict[str, Path]) -> None:
    major, minor, *_ = version("subjectgen-core").split(".")
    project = tomllib.loads((rendered["metric"] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"subjectgen-core>={major}.{minor},<{major}.{int(minor) + 1}" in project["dependencies"]
    assert project["authors"] == [{"name": 'Ada "L" O\'Hara \\ Ω'}]


def test_its_style_is_the_repositorys(rendered: dict[str, Path]) -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    theirs = tomllib.loads((rendered["metric"] / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert theirs["line-length"] == ours["line-length"]
    assert theirs["target-version"] == ours["target-version"]
    for key in ("select", "ignore", "pydocstyle"):
        assert theirs["lint"][key] == ours["lint"][key]


def test_its_license_is_the_repositorys(rendered: dict[str, Path]) -> None:
    assert (rendered["metric"] / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_its_toybox_is_the_repositorys_but_for_a_shorter_training(rendered: dict[str, Path]) -> None:
    ours = load(ROOT / "experiments" / "base" / "toybox.yaml").values
    theirs = load(rendered["metric"] / "toybox.yaml").values
    training, longer = theirs.pop("training"), ours.pop("training")
    assert theirs == {key: ours[key] for key in theirs}
    assert sum(phase["steps"] for phase in training["phases"]) < sum(phase["steps"] for phase in longer["phases"])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"name": "Layer Mean"}, "expected lower case letters"),
        ({"name": "layer-mean"}, "expected lower case letters"),
        ({"name": "1st"}, "expected lower case letters"),
        ({"name": "a" * 25}, "at most 24"),
        ({"name": "plugin"}, "expected another name"),
        ({"name": "lambda"}, "expected another name"),
        ({"name": "null"}, "expected another name"),
        ({"project": "Layer_Mean"}, "joined by single hyphens"),
        ({"project": "layer--mean"}, "joined by single hyphens"),
        ({"project": "subjectgen"}, "two words or more"),
    ],
)
def test_answers_that_cannot_work_are_refused(answers: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        render("aggregator", tmp_path / "plugin", **answers)
    assert not (tmp_path / "plugin").exists()


# ------------------------------------------------------------------------------------------------------- the how-to

COMMANDS = re.findall(r"^    (\S.*)$", FENCED.sub("", HOW_TO), flags=re.M)
NEED_THE_NETWORK = {
    "pip install copier",
    "pip install build twine",
    "python -m build",
    "twine check dist/*",
    "twine upload dist/*",
    "pip install subjectgen-layer-mean",
}
ASKS = "copier copy plugins/template ../subjectgen-layer-mean"
INSTALL = 'pip install -e ".[testing]"'
QUICK = (
    " --device cpu --set training.batch_size=2 --set schedule.steps=2"
    " --set 'training.dataset={name: toy_pairs, toys: 4, views: 2}' --set 'training.phases=[{steps: 2}]'"
)


@pytest.mark.slow
def test_the_how_tos_commands_work(run: Run, pip_install: Callable[..., None], tmp_path: Path) -> None:
    """In their order, word by word; only pip is kept off the network and training is made short."""
    folder, site = tmp_path / "subjectgen", tmp_path / "site"
    (folder / "plugins").mkdir(parents=True)
    (folder / "plugins" / "template").symlink_to(TEMPLATE)
    said = {}
    for command in dict.fromkeys(COMMANDS):
        if command in NEED_THE_NETWORK or command == ASKS:
            continue
        if command.startswith("cd "):
            folder = (folder / command.removeprefix("cd ")).resolve()
        elif command == INSTALL:
            pip_install(site, folder)
        else:
            said[command] = run(command + (QUICK if command.startswith("subjectgen train") else ""), folder, site)
    assert " passed" in said["pytest"]
    assert "subjectgen-layer-mean 0.1.0" in said["subjectgen plugins"]
    assert (folder / "runs" / "first" / "trained" / "branches.mllm.aggregator.safetensors").is_file()
    assert len(list((folder / "images").glob("*.png"))) == 1


def test_the_how_tos_two_ways_to_render_are_one() -> None:
    """The command that asks, and the one that has the answers."""
    with_answers = [shlex.split(c) for c in COMMANDS if c.startswith("copier copy --defaults")]
    assert ASKS in COMMANDS
    assert shlex.split(ASKS)[2:] == with_answers[0][-2:]


def test_the_message_after_rendering_is_the_how_tos_next_three_commands(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = {"kind": "metric", "name": "colour_distance"}
    copier.run_copy(str(TEMPLATE), str(tmp_path / "mine"), data=data, defaults=True, quiet=False)
    _, told = capfd.readouterr()
    following = [line.strip() for line in told.partition("What next:")[2].splitlines() if line.strip()]
    assert following == [f"cd {tmp_path / 'mine'}", INSTALL, "pytest && subjectgen check experiment.yaml"]
    assert {INSTALL, "pytest", "subjectgen check experiment.yaml"} <= set(COMMANDS)


def test_the_how_to_shows_the_files_and_the_experiment_that_are_made(rendered: dict[str, Path]) -> None:
    files = re.findall(r"`([\w./]+\.(?:py|toml|yaml|yml))`", HOW_TO.partition("## 2.")[2].partition("## 3.")[0])
    assert len(files) >= 7
    assert all((rendered["aggregator"] / file).is_file() for file in files if file != "plugin.py")
    (text,) = FENCED.findall(HOW_TO)
    assert yaml.safe_load(text) == yaml.safe_load((rendered["aggregator"] / "experiment.yaml").read_text())
