"""What the pages say must be so: links lead somewhere, the README's YAML works, and every command could be typed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from subjectgen.runner.cli.experiments import find_experiment
from subjectgen.runner.cli.main import HELP, app
from subjectgen.runner.system.experiment import Experiment

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "experiments/*.md", "packages/*/README.md", "plugins/*/README.md")
    for path in ROOT.glob(pattern)
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_pages_of_public_classes_are_as_they_would_be_written() -> None:
    command = [sys.executable, "docs/reference/make.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"python docs/reference/make.py; stale:\n{done.stdout}{done.stderr}"


# --------------------------------------------------------------------------------------------------- commands

STARTS = {"subjectgen": [], "nox -s demo --": ["demo"]}
"""How a line begins that is a command line of ours, and what that stands for."""


def typed(text: str) -> list[str]:
    """Command lines of code blocks, joined where they go on, and of code spans; the command's name alone is none."""
    found = re.findall(r"`((?:subjectgen|nox -s demo --) [^`\n]*)`", text)
    fenced = False
    for line in text.replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        if (fenced or line.startswith("    ")) and any(line.strip().startswith(f"{start} ") for start in STARTS):
            found.append(line.strip())
    return found


def words(line: str) -> list[str]:
    """Arguments of ``subjectgen``, without the comment at the end."""
    start = next(start for start in STARTS if line.startswith(f"{start} "))
    return STARTS[start] + shlex.split(line.removeprefix(start), comments=True)


GROUP: Any = typer.main.get_command(app)
ALONE = {*GROUP.commands, *HELP["help_option_names"], *(option for one in GROUP.params for option in one.opts)}


def parse(arguments: list[str]) -> dict[str, Any]:
    """Values by parameter, as the command line reads its arguments, without running anything."""
    command, *rest = arguments
    found = GROUP.commands[command]
    if hasattr(found, "commands"):  # a group of commands
        command, *rest = rest
        found = found.commands[command]
    params: dict[str, Any] = found.make_context(command, rest).params
    return params


COMMANDS = [
    pytest.param(line, id=f"{name(page)}: {line[:60]}")
    for page in PAGES
    if page.name not in ("CHANGELOG.md", "upgrade.md")  # they tell of what is gone
    for line in typed(page.read_text(encoding="utf-8"))
]


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 25
    text = "In\nsubjectgen one runs `subjectgen plan FILE`:\n\n"
    text += "    subjectgen train a.yaml \\\n        --out b  # why\n    nox -s demo -- dynaip\n"
    assert [words(line) for line in typed(text)] == [
        ["plan", "FILE"],
        ["train", "a.yaml", "--out", "b"],
        ["demo", "dynaip"],
    ]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_can_be_typed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command and options exist and take such values; an experiment of this repository takes its overrides."""
    monkeypatch.chdir(ROOT)
    arguments = words(line)
    if len(arguments) == 1:  # an option of them all, or a command's name in a sentence
        assert arguments[0] in ALONE
        return
    given = parse(arguments)
    experiment = given.get("experiment")
    if experiment and (ROOT / experiment).is_file():
        overrides = [one for one in given.get("override") or () if "dataset=" not in one]  # yours, says the page
        assert Experiment.read(find_experiment(experiment), overrides).parts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("subjectgen plan x.yaml --gpu H200", "No such option: --gpu"),
        ("subjectgen trian x.yaml", "trian"),
        ("subjectgen plan", "Missing parameter"),
        ("subjectgen plan x.yaml --references two", "valid integer"),
    ],
)
def test_a_command_line_that_does_not_exist_is_found(line: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        parse(words(line))


# ----------------------------------------------------------------------------------------------------- README


def block(language: str, containing: str) -> str:
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, flags=re.S) if containing in text]
    assert len(found) == 1
    return found[0]


def test_the_readmes_experiment_is_valid(tmp_path: Path) -> None:
    from subjectgen.runner.system.build import build_system

    text = block("yaml", "extends:").replace("base/", f"{ROOT / 'experiments' / 'base'}/")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert set(build_system(Experiment.read(path)).branches) == {"mllm", "vae"}


@pytest.mark.parametrize("aggregator", ["dla", "lap", "last_layer", "blend_vit", "mix_vit"])
def test_the_readmes_swap_works_in_the_demos_experiment(aggregator: str, tmp_path: Path) -> None:
    from subjectgen.runner.generation.pipeline import SubjectPipeline
    from subjectgen.runner.training.run import train

    changes = [
        f"branches.mllm.aggregator={{name: {aggregator}}}",
        "trained=null",
        "training.dataset={name: toy_pairs, toys: 4, views: 2}",
        "training.phases=[{branches: [mllm], steps: 1}, {steps: 1}]",
        "training.batch_size=2",
        "schedule.steps=2",
    ]
    result = train(Experiment.read(ROOT / "experiments/toybox/demo.yaml", changes), tmp_path / "run")
    generated = SubjectPipeline.from_pretrained(result.folder, device="cpu")(prompt="the toy at night")
    assert generated.tensors[0].isfinite().all()


def test_the_readmes_plugin_is_a_plugin() -> None:
    from subjectgen.core.plugins import Plugins

    namespace: dict[str, object] = {}
    exec(compile(block("python", "@hookimpl"), "plugin.py", "exec"), namespace)
    plugin = type("Plugin", (), {"subjectgen_aggregators": staticmethod(namespace["subjectgen_aggregators"])})
    host = Plugins.empty()
    host.register(plugin, distribution="my-aggregators")
    assert host.offer("aggregators", "mean").component.target == "my_aggregators.mean:Mean"
