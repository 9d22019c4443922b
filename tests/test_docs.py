"""What the pages say must be so: links lead somewhere, the README's YAML and commands work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "experiments/*.md", "packages/*/README.md")
    for path in ROOT.glob(pattern)
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def block(language: str, containing: str) -> str:
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, flags=re.S) if containing in text]
    assert len(found) == 1
    return found[0]


def test_the_readmes_experiment_is_valid(tmp_path: Path) -> None:
    from subjectgen.core.plugins import Plugins
    from subjectgen.runner.assemble import System
    from subjectgen.runner.experiment import Experiment

    text = block("yaml", "extends:").replace("base/", f"{ROOT / 'experiments' / 'base'}/")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    system = System(Experiment.read(path), Plugins.discover())
    assert set(system.branches) == {"mllm", "vae"}


@pytest.mark.parametrize("name", ["dla", "lap", "last_layer", "blend_vit", "mix_vit"])
def test_the_readmes_swap_works_in_the_demos_experiment(name: str, tmp_path: Path) -> None:
    from subjectgen.core.plugins import Plugins
    from subjectgen.runner.assemble import System
    from subjectgen.runner.experiment import Experiment
    from subjectgen.runner.pipeline import SubjectPipeline
    from subjectgen.runner.training import Trainer

    changes = [
        f"branches.mllm.aggregator={{name: {name}}}",
        "training.dataset={name: toy_pairs, toys: 4, views: 2}",
        "training.phases=[{branches: [mllm], steps: 1}, {steps: 1}]",
        "training.batch_size=2",
        "schedule.steps=2",
    ]
    system = System(Experiment.read(ROOT / "experiments/toybox/demo.yaml", changes), Plugins.discover())
    result = Trainer(system, tmp_path / "run").train()
    generated = SubjectPipeline.from_pretrained(result.folder, device="cpu")(prompt="the toy at night")
    assert generated.tensors.isfinite().all()


def test_the_readmes_plugin_is_a_plugin() -> None:
    from subjectgen.core.plugins import Plugins

    namespace: dict[str, object] = {}
    exec(compile(block("python", "@hookimpl"), "plugin.py", "exec"), namespace)
    plugin = type("Plugin", (), {"subjectgen_aggregators": staticmethod(namespace["subjectgen_aggregators"])})
    host = Plugins.empty()
    host.register(plugin, distribution="my-aggregators")
    assert host.component("aggregators", "mean").target == "my_aggregators.mean:Mean"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_passes_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from subjectgen.runner.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path)])
    out, err = capsys.readouterr()
    assert stopped.value.code == 0, err
    assert yaml.safe_load(out)["branches"]
