"""Isolation by distillation: the student learns the teacher's velocity, and only such weights may be sampled so."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from subjectgen.core import CheckpointError, ConfigError, Sample
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.trained import load_trained
from subjectgen.runner.training.draws import draw_batch
from subjectgen.runner.training.isolation import isolation_loss, sampling_grid
from subjectgen.runner.training.losses import group_streams
from subjectgen.runner.training.phases import phase_schedule
from subjectgen.runner.training.run import resume, train

ISOLATE = {"phases": [{"loss": "isolation", "train": ["backbone"], "steps": 2}], "batch_size": 2}


@pytest.fixture(scope="module")
def trained(experiment_tree, plugins, tmp_path_factory) -> Path:
    """A run with full attention."""
    import yaml

    folder = tmp_path_factory.mktemp("full")
    tree = {**experiment_tree, "training": {**experiment_tree["training"], "phases": [{"steps": 2}]}}
    (folder / "full.yaml").write_text(yaml.safe_dump(tree))
    return train(Experiment.read(folder / "full.yaml", plugins=plugins), folder / "run").folder


def isolated(write, plugins, trained: Path, **training) -> Experiment:
    changes = {
        "trained": str(trained),
        "backbone": {"reference_attention": "isolated"},
        "schedule": {"dropout": {"table": []}},  # or rows would not be of one group
    }
    path = write({**changes, "training": {**ISOLATE, **training}}, name="isolated.yaml")
    return Experiment.read(path, plugins=plugins)


def losses(experiment: Experiment, samples: list[Sample], guidance: float = 1.0):
    """Of the student as it is, the batch, and the system."""
    system = load_trained(build_system(experiment), may_differ=["backbone.reference_attention"])
    values = {name: value.detach().clone() for name, value in system.trainable().items()}
    loss = isolation_loss(system, system.trainable(), values, guidance=guidance)
    data = [torch.zeros(system.latent_shape(64, 64))] * len(samples)
    schedule = phase_schedule(system, experiment.settings.training.phases[0])
    batch = draw_batch(system, schedule, samples, data, seeds=range(len(samples)), grid=loss.grid)
    return loss, batch, system


def test_the_teachers_way_is_the_samplers(write, plugins, trained, toys) -> None:
    """x_t is what Euler's steps with full attention give from the row's own noise; the loss is of velocities there."""
    loss, batch, system = losses(isolated(write, plugins, trained), toys[:3])
    found = loss(system, batch, [0, 1, 2])
    full, grid = system.backbone.full_attention(), sampling_grid(system).tolist()
    for row in range(3):
        streams, x, t = group_streams(system, batch, [row]), batch.noise[row][None], float(batch.timesteps[row])
        assert t in grid[:-1]
        with torch.no_grad():
            for now, following in pairwise(grid):
                if now == t:
                    break
                x = x + (following - now) * full(x, torch.tensor([now]), streams)
            wanted = full(x, torch.tensor([t]), streams)
            given = system.backbone(x, torch.tensor([t]), streams)
        torch.testing.assert_close(found[row], (given - wanted).square().mean(), rtol=1e-4, atol=1e-8)


def test_without_references_student_and_teacher_are_one(write, plugins, trained, toys) -> None:
    alone = [Sample(key="a", prompt=toys[0].prompt), Sample(key="b", prompt=toys[1].prompt)]
    loss, batch, system = losses(isolated(write, plugins, trained), alone)
    assert float(loss(system, batch, [0, 1]).max()) < 1e-12


def test_the_teacher_stays_as_it_was(write, plugins, trained, toys) -> None:
    loss, batch, system = losses(isolated(write, plugins, trained), toys[:2])
    wanted = loss(system, batch, [0, 1]).detach()
    with torch.no_grad():
        for value in system.trainable().values():
            value.add_(0.05)
    changed = loss(system, batch, [0, 1])
    assert not torch.allclose(changed, wanted)
    changed.sum().backward()
    assert all(value.grad is not None for value in system.backbone.trainable_parameters().values())
    with torch.no_grad():
        for value in system.trainable().values():
            value.sub_(0.05)
    torch.testing.assert_close(loss(system, batch, [0, 1]), wanted, rtol=1e-3, atol=1e-6)


def test_it_trains_the_backbone_alone_goes_on_and_may_be_sampled(write, plugins, trained, tmp_path) -> None:
    from subjectgen.runner.training.snapshot import read

    experiment = isolated(write, plugins, trained, save_every=1)
    folder = train(experiment, tmp_path / "run").folder
    own = load_trained(build_system(experiment.changed({"trained": str(folder)})))
    before = load_trained(build_system(experiment), may_differ=["backbone.reference_attention"]).trainable()
    changed = {name for name, value in own.trainable().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("backbone.") for name in changed)
    teacher = read(folder / "checkpoints" / "step-00000001").teacher()
    assert all(torch.equal(value, before[name]) for name, value in teacher.items())
    (folder / "trained").rename(tmp_path / "away")  # as if it had been killed after the first step
    second = folder / "checkpoints" / "step-00000002"
    second.rename(tmp_path / "second")
    resume(folder, plugins=plugins)
    found, expected = (load_file(place / "lora.safetensors") for place in (folder / "trained", tmp_path / "away"))
    for name, value in expected.items():
        assert torch.equal(found[name], value), (name, float((found[name] - value).abs().max()))


def test_weights_that_were_not_trained_so_are_refused_with_the_recipe(write, plugins, trained) -> None:
    with pytest.raises(CheckpointError, match=r"reference_attention: \"full\".*experiments/squeeze/isolate\.yaml"):
        load_trained(build_system(isolated(write, plugins, trained)))


def test_a_backbone_with_full_attention_has_nothing_to_learn(write, plugins, trained, tmp_path) -> None:
    path = write({"training": ISOLATE})
    with pytest.raises(ConfigError, match=r"expected backbone\.reference_attention: isolated"):
        train(Experiment.read(path, plugins=plugins), tmp_path / "run")
