"""A whole run is what a plain loop says: order of samples, learning rates, phases, data sets, losses, weights."""

import io
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from subjectgen.core import ConfigError, InputError
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.settings import PhaseSettings, TrainingSettings
from subjectgen.runner.system.trained import load_trained
from subjectgen.runner.training.learning_rate import learning_rate
from subjectgen.runner.training.phases import phase_data, phase_schedule
from subjectgen.runner.training.positions import generator
from subjectgen.runner.training.progress import Progress
from subjectgen.runner.training.rows import Rows
from subjectgen.runner.training.run import train, train_system
from subjectgen.runner.training.targets import Targets

STEPS, BATCH, COUNT = 5, 4, 12
LOSSY = {
    "lr_schedule": "cosine",
    "warmup_steps": 2,
    "max_grad_norm": 0.05,
    "cache": {"targets": True},
    "learning_rate": 0.01,
    "batch_size": BATCH,
}


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def plain_run(tiny, system, schedules, pairs, rates) -> list[tuple[float, float]]:
    """Learning rate and loss of each step; the system is trained."""
    log = []
    for phase, (schedule, data, full) in enumerate(zip(schedules, pairs, rates, strict=True)):
        parameters, order = list(system.trainable().values()), []
        optimizer = torch.optim.AdamW(parameters, weight_decay=0.01)
        for epoch in range(2):
            order += torch.randperm(COUNT, generator=generator(0, "epoch", phase, 0, epoch, 0)).tolist()
        for step in range(STEPS):
            loss = 0.0
            for position in range(step * BATCH, (step + 1) * BATCH):
                sample, draw = data[order[position]], generator(0, "row", phase, position)
                t = schedule.sample_timesteps(1, image_tokens=16, generator=draw)[0]
                (hide,) = schedule.sample_dropout(1, generator=draw)
                start = torch.randn(3, 4, 4, generator=draw)
                active = schedule.active(float(t)).restricted(hide)
                target = tiny.latents_of(sample.target[None])[0]
                loss = loss + tiny.row_loss(system, sample, active, t, target, start) / BATCH
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
            for gradient in gradients:
                gradient.mul_(min(1.0, LOSSY["max_grad_norm"] / (norm + 1e-6)))
            rate = full * min(1.0, (step + 1) / 2) * (1 + math.cos(math.pi * step / STEPS)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            log.append((rate, float(loss.detach())))
    return log


def test_a_run_is_a_plain_loop(tiny, tiny_experiment, tmp_path) -> None:
    """Two phases with data and a rate of their own, masks of the schedule in the second."""
    seeds = (1, 2)
    phases = [{"steps": STEPS, "dataset": {"name": "tiny_pairs", "seed": seed}} for seed in seeds]
    phases[1] |= {"learning_rate": 0.03, "stage_masks": True}
    experiment = tiny_experiment({"training": {**LOSSY, "phases": phases}})
    result = train(experiment, tmp_path / "run")
    plain = build_system(experiment)
    schedules = [phase_schedule(plain, phase) for phase in experiment.settings.training.phases]
    pairs = [tiny.Pairs(tiny.Pairs.Config(seed=seed)) for seed in seeds]
    expected = plain_run(tiny, plain, schedules, pairs, rates=(0.01, 0.03))
    log = read_log(result.folder)
    assert [line["step"] for line in log] == list(range(1, 2 * STEPS + 1))
    assert [line["samples"] for line in log] == [BATCH] * 2 * STEPS
    assert [line["learning_rate"] for line in log] == pytest.approx([rate for rate, _ in expected])
    assert [line["loss"] for line in log] == pytest.approx([loss for _, loss in expected], abs=2e-6)
    trained = load_trained(build_system(tiny_experiment({"trained": str(result.folder)})))
    for name, value in plain.trainable().items():
        torch.testing.assert_close(trained.trainable()[name], value)


def test_training_can_learn(tiny_experiment, tmp_path) -> None:
    """Over-fit one pair: the loss at the end is well below that at the start."""
    options = {"dataset": {"count": 1}, "phases": [{"steps": 200}], "learning_rate": 0.03, "log_every": 50}
    changes = {"training": options, "schedule": {"dropout": {"table": []}}}
    log = read_log(train(tiny_experiment(changes), tmp_path / "run").folder)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


# -------------------------------------------------------------------------------------------- order, rates, phases


@pytest.mark.parametrize("way", ["constant", "linear", "cosine"])
def test_the_rate_rises_to_the_phases_own_and_falls_as_it_is_told(way: str) -> None:
    options = TrainingSettings(phases=({"steps": 10},), learning_rate=1.0, warmup_steps=4, lr_schedule=way)
    phase = PhaseSettings(steps=10, learning_rate=3.0)
    rates = [learning_rate(step, phase, options) for step in range(10)]
    falls = {"constant": lambda x: 1.0, "linear": lambda x: 1 - x, "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2}
    assert rates == pytest.approx([3.0 * min(1.0, (n + 1) / 4) * falls[way](n / 10) for n in range(10)])
    assert learning_rate(9, PhaseSettings(steps=10), TrainingSettings(phases=(phase,), learning_rate=2.0)) == 2.0


@pytest.mark.parametrize("branches", [None, ("words",)])
def test_branches_of_a_phase_speak_at_every_timestep(tiny_experiment, branches) -> None:
    """The stages are inference's (3.4, 4.1): training is masked only where it is asked for."""
    system = build_system(tiny_experiment({"schedule": {"inactive": "zero"}}))
    schedule = phase_schedule(system, PhaseSettings(steps=1, branches=branches))
    for t in (0.0, 0.3, 0.7, 1.0):
        active = schedule.active(t)
        assert active.names == set(branches or system.branches)
        assert active.inactive == "drop"
    assert phase_schedule(system, PhaseSettings(steps=1, stage_masks=True)) is system.schedule


def test_masks_in_a_phase_without_all_branches_are_refused(tiny_experiment, tmp_path) -> None:
    phase = {"steps": 1, "branches": ["words"], "stage_masks": True}
    with pytest.raises(ConfigError, match="stage_masks: true, but its branches lack pictures"):
        train(tiny_experiment({"training": {"phases": [phase]}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------- targets (P5)


def test_targets_of_another_size_than_the_image_are_refused_by_name(tiny_experiment, tmp_path) -> None:
    changes = {"training": {"dataset": {"sizes": [12]}}}
    with pytest.raises(InputError, match=r"'pair-\d+': its target has 12x12 pixels.*image: says 8x8.*buckets: true"):
        train(tiny_experiment(changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batches_of_buckets_hold_targets_of_one_size(tiny_experiment, tmp_path) -> None:
    options = {"dataset": {"sizes": [8, 12], "count": 13}, "buckets": True, "batch_size": 3}
    said = io.StringIO()
    result = train(tiny_experiment({"training": options}), tmp_path / "run", console=Console(file=said))
    assert all(math.isfinite(line["loss"]) for line in read_log(result.folder))
    assert "1 of its samples fill no batch of one size" in said.getvalue()


def test_a_target_that_the_tokens_do_not_fill_is_refused_by_key(tiny_experiment, tmp_path) -> None:
    changes = {"training": {"dataset": {"sizes": [9]}}}
    with pytest.raises(InputError, match=r"training\.dataset.*sample 'pair-002'.*9x9.*expected a multiple of 2"):
        train(tiny_experiment(changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sample_without_a_target_is_named(tiny_experiment, tmp_path) -> None:
    with pytest.raises(InputError, match=r"training\.dataset.*sample 'pair-003' has no target image"):
        train(tiny_experiment({"training": {"dataset": {"bare": 3}}}), tmp_path / "run")


def test_an_empty_data_set_is_refused(tiny_experiment, tmp_path) -> None:
    with pytest.raises(InputError, match=r"training\.dataset.*holds no samples"):
        train(tiny_experiment({"training": {"dataset": {"count": 0}}}), tmp_path / "run")


def test_what_an_autoencoder_draws_of_a_target_follows_from_its_position(tiny_experiment) -> None:
    experiment = tiny_experiment({"autoencoder": {"draws": True}})
    system, (data, _) = build_system(experiment), phase_data(experiment)
    rows = Rows(data.datasets, data.order, seed=0, phase=0)
    targets = Targets(system, data.order, phase=0)
    alone = [targets.latents([rows[position]])[0] for position in range(4)]
    together = targets.latents([rows[position] for position in (3, 0, 2, 1)])
    for found, position in zip(together, (3, 0, 2, 1), strict=True):
        assert torch.equal(found, alone[position])
    other = Targets(system, data.order, phase=1).latents([rows[0]])[0]
    assert not torch.equal(other, alone[0])


# -------------------------------------------------------------------------------------------------- progress (O14)


def test_the_first_line_comes_before_anything_slow(tiny_experiment, tmp_path, monkeypatch) -> None:
    said = io.StringIO()

    def slow(*_: Any, **__: Any) -> None:
        assert "building tiny" in said.getvalue()
        raise InputError("built")

    monkeypatch.setattr("subjectgen.runner.training.run.build_system", slow)
    with pytest.raises(InputError, match="built"):
        train(tiny_experiment(), tmp_path / "run", console=Console(file=said))


def test_one_thing_that_takes_long_is_said_again(tiny) -> None:
    said = io.StringIO()
    with Progress(Console(file=said), every=0.05) as progress:
        progress.doing("step 1: 3 of 4 samples read")
        for _ in range(1000):
            if "samples read ..." in said.getvalue():
                break
            time.sleep(0.01)
    assert "step 1: 3 of 4 samples read ... 0 s" in said.getvalue()


def test_a_system_that_is_built_can_be_trained(tiny_experiment, tmp_path) -> None:
    system = build_system(tiny_experiment())
    before = {name: value.detach().clone() for name, value in system.trainable().items()}
    said = io.StringIO()
    result = train_system(system, tmp_path / "run", console=Console(file=said))
    assert any(not torch.equal(value, before[name]) for name, value in system.trainable().items())
    assert set(result.losses) == {"phase 1 (words)", "phase 2 (words+pictures)"}
    assert "phase 1 (words): 3 steps" in said.getvalue()
