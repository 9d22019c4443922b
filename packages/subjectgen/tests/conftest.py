"""A whole experiment on untrained tiny checkpoints, in the hubs' own layouts."""

from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from subjectgen.toybox.untrained import write_untrained

    return write_untrained(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def experiment_tree(checkpoints: Path) -> dict:
    """A small experiment of two branches."""
    vae = {"name": "vae", "checkpoint": str(checkpoints / "vae"), "subfolder": "", "size": 64}
    mllm = {"name": "internvl3", "checkpoint": str(checkpoints / "internvl3"), "dtype": "float32"}
    return {
        "branches": {
            "mllm": {"encoder": mllm, "aggregator": {"name": "dla"}, "injector": {"name": "context"}},
            "vae": {"encoder": vae, "injector": {"name": "reference_tokens"}},
        },
        "backbone": {"name": "flux", "checkpoint": str(checkpoints / "transformer"), "lora": {"rank": 4}},
        "autoencoder": vae,
        "schedule": {"name": "three_stage", "tau1": 0.7, "tau2": 0.4, "grid": "linear", "steps": 5},
        "image": {"height": 64, "width": 64},
        "training": {
            "dataset": {"name": "toy_pairs", "toys": 4, "views": 3, "block": 4},
            "phases": [{"branches": ["mllm"], "steps": 2}, {"steps": 2}],
            "batch_size": 4,
            "learning_rate": 1e-3,
            "log_every": 1,
            "curves": False,
        },
    }


@pytest.fixture
def write(tmp_path: Path, experiment_tree: dict):
    """Write an experiment YAML with changes merged into a small two-branch one."""

    def write(changes: dict | None = None, name: str = "tiny.yaml") -> Path:
        from subjectgen.core.config import merge

        path = tmp_path / name
        path.write_text(yaml.safe_dump(merge(experiment_tree, changes or {})))
        return path

    return write


@pytest.fixture
def system(write, plugins):
    """Build the small experiment, or one with changes, in evaluation mode."""
    from subjectgen.runner.system.build import build_system
    from subjectgen.runner.system.experiment import Experiment

    return lambda changes=None: build_system(Experiment.read(write(changes), plugins=plugins))


@pytest.fixture(scope="session")
def plugins():
    from subjectgen.core.plugins import Plugins

    return Plugins.discover()


@pytest.fixture
def toys():
    """Samples with one reference, target and prompt each."""
    from subjectgen.toybox.datasets import ToyPairs

    dataset = ToyPairs(ToyPairs.Config(toys=4, views=2, block=4))
    return [dataset[index] for index in range(4)]


@pytest.fixture(scope="session")
def tiny():
    """Parts of milliseconds (``tiny_parts.py``), importable by the name of their module, as components are."""
    import importlib.util
    import sys

    spec = importlib.util.spec_from_file_location("tiny_parts", Path(__file__).with_name("tiny_parts.py"))
    module = sys.modules["tiny_parts"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_experiment(tiny, tmp_path_factory: pytest.TempPathFactory):
    """Read the tiny experiment with changes."""
    from subjectgen.core.config import merge
    from subjectgen.runner.system.experiment import Experiment

    host, folder = tiny.plugins(), tmp_path_factory.mktemp("tiny")

    def read(changes: dict | None = None):
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(merge(tiny.EXPERIMENT, changes or {}), sort_keys=False))
        return Experiment.read(path, plugins=host)

    return read


@pytest.fixture
def hearing(tiny_experiment):
    """A model that says x_t · tanh(1 + tanh(2 g - 1)) for a reference of grey g, and does not hear words."""
    import torch

    from subjectgen.runner.system.build import build_system

    system = build_system(tiny_experiment())
    wave = system.backbone
    with torch.no_grad():
        for parameter in wave.parameters():
            parameter.zero_()
        for linear in (wave.image, wave.reference):
            linear.weight.copy_(torch.eye(3))
    return system


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Run the command line; returns (exit code, stdout, stderr)."""

    from subjectgen.runner.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run
