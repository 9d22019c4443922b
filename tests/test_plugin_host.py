"""Bad neighbours, really installed: the command line answers each with one message, and everybody else works."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from subprocess import CompletedProcess
from typing import TypeAlias

import pytest

Run: TypeAlias = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.slow

CORE = version("subjectgen-core")

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.2"
dependencies = ["subjectgen-core{core}"]

[project.entry-points.subjectgen]
{name} = "{module}"

[tool.hatch.build.targets.wheel]
packages = ["{module}"]
"""

PLUGIN = """
from subjectgen.core import Component, hookimpl

@hookimpl
def {hook}():
    return [Component(name="{component}", target="{module}.part:Part", summary="An aggregator")]
"""

PART = """
import torch
from pydantic import field_validator
from subjectgen.core import Conditioning, Config as BaseConfig

class Part(torch.nn.Module):
    class Config(BaseConfig):
        rate: float = 1.0
        {in_config}

    def __init__(self, config, *, width, depth, context_width, pooled_width):
        {in_constructor}
        super().__init__()
        self.layers = (depth - 1,)
        self.connector = torch.nn.Linear(width, context_width)

    def forward(self, features):
        return Conditioning(tokens=self.connector(features.hidden_states[-1]), mask=features.mask)
"""

ODD_VALIDATOR = """
        @field_validator("rate")
        @classmethod
        def look_up(cls, value):
            return {}[value]
"""


@dataclass(frozen=True)
class Plugin:
    """Source of a distribution with one aggregator of the same name."""

    name: str
    component: str
    hook: str = "subjectgen_aggregators"
    core: str = f"=={CORE}"
    at_import: str = ""
    in_config: str = ""
    in_constructor: str = ""
    part: str = PART

    def write(self, folder: Path) -> Path:
        module = self.name.replace("-", "_")
        package = folder / self.name / module
        package.mkdir(parents=True)
        (package.parent / "pyproject.toml").write_text(PROJECT.format(name=self.name, module=module, core=self.core))
        plugin = PLUGIN.format(hook=self.hook, component=self.component, module=module)
        (package / "__init__.py").write_text(f"{self.at_import}{plugin}")
        part = self.part.replace("{in_config}", self.in_config)
        (package / "part.py").write_text(part.replace("{in_constructor}", self.in_constructor))
        return package.parent


PLUGINS = [
    Plugin("acme-steady", "steady"),
    Plugin("acme-twin", "twin"),
    Plugin("other-twin", "twin"),
    Plugin("acme-crash", "crash", in_constructor="raise ValueError('the heads\\nare too many')"),
    Plugin("acme-odd", "odd", in_config=ODD_VALIDATOR),
    Plugin("acme-bare", "bare", part="def Part(config, **runtime): ..."),
    Plugin("acme-late", "late", part="raise RuntimeError('no GPU here')"),
    Plugin("acme-future", "future", core=">=9,<10", at_import="open('imported', 'w').close()\n"),
    Plugin("acme-gone", "gone", at_import="import a_package_that_is_not_there\n"),
    Plugin("acme-misspelt", "misspelt", hook="subjectgen_agregators"),
]
BROKEN = {
    "acme-future 1.2": f"built for subjectgen-core >=9,<10; installed is {CORE}: pip install -U acme-future"
    " (what changed: docs/how-to/upgrade.md)",
    "acme-gone 1.2": "ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
    "acme-misspelt 1.2": "unknown hook 'subjectgen_agregators'; did you mean 'subjectgen_aggregators'?",
}
TWINS = "aggregator 'twin' is offered by acme-twin and by other-twin; write 'acme-twin:twin' or 'other-twin:twin'"
CRASH = "component 'crash' of acme-crash 1.2 failed to build: ValueError: the heads are too many"
ABSENT = "plugin 'zebra' is not installed; to get it: pip install zebra"
WORKING = sorted({plugin.name for plugin in PLUGINS} - {name.partition(" ")[0] for name in BROKEN})

EXPERIMENT = """
branches:
  mllm:
    encoder: {name: internvl3, checkpoint: "package:subjectgen.toybox/weights/internvl3", dtype: float32}
    aggregator:
      name: steady
    injector: {name: context}
backbone: {name: flux, checkpoint: "package:subjectgen.toybox/weights/transformer", lora: {rank: 2}}
autoencoder: {name: vae, checkpoint: "package:subjectgen.toybox/weights/vae", subfolder: "", size: 64}
schedule: {name: always_on, grid: linear, steps: 2}
image: {height: 64, width: 64}
training:
  dataset: {name: toy_pairs, toys: 4, views: 2}
  phases: [{steps: 1}]
  batch_size: 2
"""
PLACE = "mine.yaml:6: branches.mllm.aggregator.name: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pip_install: Callable[..., None]) -> Path:
    """All distributions, installed by pip into ``site``, and an experiment."""
    folder = tmp_path_factory.mktemp("neighbours")
    sources = [plugin.write(folder / "sources") for plugin in PLUGINS]
    pip_install(folder / "site", *sources)
    (folder / "mine.yaml").write_text(EXPERIMENT)
    return folder


@pytest.fixture
def run(folder: Path, warm_python: Callable[..., CompletedProcess[str]]) -> Run:
    """Run the command line there; a traceback is never an answer. Returns exit code, stdout and stderr."""

    def run(*arguments: str, site: str = "site", **environment: str) -> tuple[int, str, str]:
        command = ("-m", "subjectgen.runner", *arguments)
        done = warm_python(*command, folder=folder, site=folder / site, **environment)
        assert "Traceback" not in done.stderr, done.stderr
        # On a busy machine it also says what it is doing.
        said = [line for line in done.stderr.splitlines(keepends=True) if not line.endswith(" ...\n")]
        return done.returncode, done.stdout, "".join(said)

    return run


def use(aggregator: str) -> tuple[str, str]:
    return "--set", f"branches.mllm.aggregator={aggregator}"


def test_plugins_lists_who_works_and_who_does_not(folder: Path, run: Run) -> None:
    code, out, err = run("plugins")
    assert code == 1
    listed = {line for line in out.splitlines() if not line.startswith(" ")}
    assert {f"{name} 1.2" for name in WORKING} <= listed
    assert f"subjectgen-aggregators {CORE}" in listed
    told = {line for line in err.splitlines() if line.startswith("broken: ")}
    assert {f"broken: {name} ({reason})" for name, reason in BROKEN.items()} <= told
    assert not (folder / "imported").exists(), "a plugin for another core must not even be imported"


def test_plugins_is_content_once_the_broken_are_left_out(folder: Path, run: Run) -> None:
    names = [name.partition(" ")[0] for name in BROKEN]
    code, out, err = run("plugins", "--json", SUBJECTGEN_DISABLE_PLUGINS=",".join(names))
    assert code == 0, err
    tree = json.loads(out)
    assert set(names) <= set(tree["left_out"])
    assert set(WORKING) <= {plugin["distribution"] for plugin in tree["plugins"]}


def test_components_lists_the_others(folder: Path, run: Run) -> None:
    code, out, _ = run("components", "--kind", "aggregators")
    assert code == 0
    assert out.count("(acme-") + out.count("(other-") == len(WORKING)
    assert "(subjectgen-aggregators)" in out


@pytest.mark.parametrize(
    ("aggregator", "message"),
    [
        ("{name: twin}", TWINS),
        ("{name: 'zebra:mean'}", ABSENT),
        ("{name: 'acme-twins:twin'}", "plugin 'acme-twins' is not installed; did you mean 'acme-twin'?"),
        ("{name: 'acme-future:future'}", "plugin 'acme-future' does not work: acme-future 1.2 (built for subjectgen-"),
        ("{name: 'acme-gone:gone'}", "plugin 'acme-gone' does not work: acme-gone 1.2 (ModuleNotFoundError: "),
        ("{name: misspelt}", "unknown aggregator 'misspelt'"),
        ("{name: bare}", "acme-bare 1.2: component 'bare' (acme_bare.part:Part) has no Config; expected a class"),
        (
            "{name: late}",
            "acme-late 1.2: component 'late' (acme_late.part:Part) failed to import: RuntimeError",
        ),
    ],
)
def test_check_answers_in_one_line_with_the_place(folder: Path, run: Run, aggregator: str, message: str) -> None:
    (folder / "wrong.yaml").write_text(EXPERIMENT.replace("name: steady", aggregator.strip("{}")))
    code, _, err = run("check", "wrong.yaml")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith(f"error: {PLACE.replace('mine', 'wrong')}{message}")


def test_an_unknown_name_tells_of_every_broken_plugin(folder: Path, run: Run) -> None:
    _, _, err = run("check", "mine.yaml", *use("{name: misspelt}"))
    assert all(f"a plugin failed to load: {name} ({reason})" in err for name, reason in BROKEN.items())


def test_a_config_that_raises_something_odd(folder: Path, run: Run) -> None:
    code, _, err = run("check", "mine.yaml", *use("{name: odd, rate: 0.5}"))
    assert code == 2
    expected = "branches.mllm.aggregator: component 'odd' of acme-odd 1.2 failed to check its options: KeyError: 0.5"
    assert err == f"error: --set: {expected}\n"


@pytest.mark.parametrize("command", ["check --build", "train --out run-crash --device cpu", "generate --prompt toy"])
def test_one_that_fails_when_built(folder: Path, run: Run, command: str) -> None:
    """What it says is read once, whichever command builds it; nothing is written."""
    name, *options = command.split()
    (folder / "crash.yaml").write_text(EXPERIMENT.replace("name: steady", "name: crash"))
    code, _, err = run(name, "crash.yaml", *options)
    assert code == 2
    assert err.splitlines()[-1] == f"error: crash.yaml:5: branches.mllm.aggregator: {CRASH}"
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert not (folder / "run-crash").exists()


def test_the_others_train_and_generate_and_a_run_says_what_it_misses(folder: Path, run: Run) -> None:
    """Beside all bad neighbours; later, elsewhere, the run's own YAML leads to the missing distribution."""
    steady = use("{name: 'acme-steady:steady'}")
    code, _, err = run("train", "mine.yaml", "--out", "run", "--device", "cpu", *steady)
    assert code == 0, err
    assert (folder / "run" / "trained" / "branches.mllm.aggregator.safetensors").is_file()
    assert json.loads((folder / "run" / "run.json").read_text())["plugins"]["acme-steady"] == "1.2"
    arguments = ("generate", "run", "--prompt", "the toy at night", "--out", "images", "--device", "cpu")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert (folder / out.strip()).is_file()
    code, _, err = run(*arguments, site="nothing")
    assert code == 2
    (line,) = err.splitlines()
    assert "experiment.yaml:" in line
    assert line.endswith(
        "branches.mllm.aggregator.name: plugin 'acme-steady' is not installed; to get it: pip install acme-steady"
    )


def test_the_how_to_quotes_what_is_said() -> None:
    """Its table of messages; ``...`` stands for what differs. What is really said is compared above."""
    how_to = (Path(__file__).parents[1] / "docs" / "how-to" / "write-a-plugin.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| [^|]* \| `(.*)` \|$", how_to.partition("## 6.")[2].partition("## 7.")[0], flags=re.M)
    broken = [f"broken: {name} ({reason})" for name, reason in BROKEN.items()]
    said = [*broken, TWINS, f"crash.yaml:5: branches.mllm.aggregator: {CRASH}", ABSENT]
    assert len(quoted) == 6
    for text in quoted:
        pattern = ".*".join(map(re.escape, text.split("...")))
        assert any(re.search(pattern, message) for message in said), text
