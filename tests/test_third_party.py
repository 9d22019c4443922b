"""Parts written elsewhere are installed with pip, found, listed and built; they pass the kit, train and generate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import TypeAlias

import pytest
from PIL import Image

Run: TypeAlias = Callable[..., str]

EXAMPLE = Path(__file__).parent / "third_party_example"
TOY = Path(__file__).parents[1] / "docs" / "tutorial" / "toy.png"

pytestmark = pytest.mark.slow

DISCOVER = """
import json
from subjectgen.core.plugins import Plugins
plugins = Plugins.discover()
print(json.dumps({
    "mean": [one.distribution for one in plugins.offers("aggregators") if one.component.name == "mean"],
    "others": sorted(plugins.distributions()),
    "broken": {broken.distribution: broken.error for broken in plugins.broken},
}))
"""

BUILD = """
from subjectgen.core.config import loads
from subjectgen.core.plugins import Plugins
spec = loads("aggregator: {name: subjectgen-example-mean:mean, bias: false}").values["aggregator"]
part = Plugins.discover().build("aggregators", spec, width=8, depth=3, context_width=4, pooled_width=2)
print(part.layers, part.connector.bias)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, pip_install: Callable[..., None]) -> Path:
    """A folder into which pip installed the example, from a copy so that no build files land here."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("third_party")
    shutil.copytree(EXAMPLE, folder / "source")
    pip_install(folder / "site", folder / "source")
    return folder


@pytest.fixture
def run(installed: Path, warm_python: Callable[..., CompletedProcess[str]]) -> Run:
    """Run ``python ...`` there; returns what it prints."""

    def run(*arguments: str) -> str:
        done = warm_python(*arguments, folder=installed, site=installed / "site")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_it_is_found_and_built(run: Run) -> None:
    found = json.loads(run("-c", DISCOVER))
    assert found["mean"] == ["subjectgen-example-mean"]
    assert not found["broken"]
    assert run("-c", BUILD).split("\n")[0] == "(0, 1, 2) None"


def test_a_broken_neighbour_is_reported_and_stops_nothing(installed: Path, run: Run) -> None:
    whole = json.loads(run("-c", DISCOVER))
    info = installed / "site" / "broken_neighbour-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-neighbour\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[subjectgen]\nbroken-neighbour = broken_neighbour\n")
    (installed / "site" / "broken_neighbour.py").write_text("raise RuntimeError('made for an older subjectgen')")
    try:
        found = json.loads(run("-c", DISCOVER))
    finally:
        shutil.rmtree(info)
    assert found.pop("broken") == {"broken-neighbour": "RuntimeError: made for an older subjectgen"}
    assert found.items() <= whole.items()


def test_it_passes_the_conformance_kit(run: Run) -> None:
    """Its own tests, by pytest, from its own folder."""
    output = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "source/tests")
    assert "passed" in output


def test_it_is_listed_and_trains_and_generates_from_the_demos_yaml(installed: Path, run: Run) -> None:
    """One word in the YAML, no change in this repository."""
    command = ("-m", "subjectgen.runner")
    assert "mean" in run(*command, "plugins")
    experiment = str(Path(__file__).parents[1] / "experiments" / "toybox" / "demo.yaml")
    changes = [
        "branches.mllm.aggregator={name: mean}",
        "trained=null",
        "schedule.steps=3",
        "training.dataset={name: toy_pairs, toys: 4, views: 2}",
        "training.phases=[{branches: [mllm], steps: 1}, {steps: 1}]",
        "training.batch_size=2",
    ]
    overrides = [argument for change in changes for argument in ("--set", change)]
    run(*command, "train", experiment, "--out", "run", "--device", "cpu", *overrides)
    assert (installed / "run" / "trained" / "branches.mllm.aggregator.safetensors").is_file()
    arguments = ("--prompt", "the toy at night", "--out", "images", "--device", "cpu")
    assert run(*command, "generate", "run", *arguments).strip().endswith(".png")


def test_a_backbone_of_another_family_trains_and_generates(installed: Path, run: Run) -> None:
    """Qwen-Image's transformer beside the toybox's encoders: one YAML, and no change in this repository."""
    command, experiment, place = ("-m", "subjectgen.runner"), "source/qwen.yaml", ("--device", "cpu")
    run(*command, "check", experiment, "--build")
    run(*command, "train", experiment, "--out", "qwen", *place)
    (line,) = (json.loads(text) for text in (installed / "qwen" / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == 2
    assert (installed / "qwen" / "trained" / "qwen.safetensors").is_file()

    pictures = []
    for drawn in ("qwen", experiment):  # trained, and as it was before
        words = ("--prompt", "the toy at night", "--reference", str(TOY), "--out", f"{Path(drawn).stem}-images")
        (path,) = run(*command, "generate", drawn, *words, *place).split()
        record = json.loads((installed / path).with_suffix(".json").read_text())
        assert record["settings"]["backbone"]["name"] == "qwen_image"
        assert record["plugins"]["subjectgen-example-mean"] == "0.1.0"
        with Image.open(installed / path) as opened:
            pictures.append(opened.convert("RGB"))
    assert [picture.size for picture in pictures] == [(64, 64)] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes(), "two steps of training change the picture"
