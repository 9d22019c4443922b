"""A whole run is what a plain loop says: order of samples, learning rates, phases, data sets, losses, weights."""

import io
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from rich.console import Console

from subjectgen.core import ConfigError, InputError
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.settings import PhaseSettings, TrainingSettings
from subjectgen.runner.system.trained import load_trained
from subjectgen.runner.training.batches import TrainingData, sample_order
from subjectgen.runner.training.learning_rate import learning_rate
from subjectgen.runner.training.phases import phase_schedule
from subjectgen.runner.training.progress import Progress
from subjectgen.runner.training.trainer import train, train_system

STEPS, BATCH, COUNT = 5, 4, 12
LOSSY = {
    "lr_schedule": "cosine",
    "warmup_steps": 2,
    "max_grad_norm": 0.05,
    "cache_targets": True,
    "learning_rate": 0.01,
    "batch_size": BATCH,
}


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def plain_run(tiny, system, schedules, pairs, rates) -> list[tuple[float, float]]:
    """Learning rate and loss of each step; the system is trained."""
    draw, log = torch.Generator().manual_seed(0), []
    for schedule, data, full in zip(schedules, pairs, rates, strict=True):
        parameters, left = list(system.trainable().values()), []
        optimizer = torch.optim.AdamW(parameters, weight_decay=0.01)
        for step in range(STEPS):
            left = left or torch.randperm(COUNT, generator=draw).tolist()
            samples, left = [data[number] for number in left[:BATCH]], left[BATCH:]
            times = schedule.sample_timesteps(BATCH, image_tokens=16, generator=draw)
            hidden = schedule.sample_dropout(BATCH, generator=draw)
            noise = torch.randn(BATCH, 3, 4, 4, generator=draw)
            loss = 0.0
            for sample, t, hide, start in zip(samples, times, hidden, noise, strict=True):
                active = schedule.active(float(t)).restricted(hide)
                target = tiny.latents_of(sample.target[None])[0]
                loss = loss + tiny.row_loss(system, sample, active, t, target, start) / BATCH
            for parameter in parameters:
                parameter.grad = None
            loss.backward()
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
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


def test_every_sample_comes_once_per_pass() -> None:
    @settings(deadline=None)
    @given(samples=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 2**32))
    def law(samples: int, size: int, seed: int) -> None:
        order = sample_order(samples, size, torch.Generator().manual_seed(seed))
        size = min(size, samples)
        for _ in range(3):
            batches = [next(order) for _ in range(samples // size)]
            assert all(len(batch) == size for batch in batches)
            seen = [number for batch in batches for number in batch]
            assert len(set(seen)) == len(seen) == samples // size * size
            assert set(seen) <= set(range(samples))

    law()


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


def data_of(tiny_experiment, **options) -> TrainingData:
    experiment = tiny_experiment({"training": {"dataset": options}})
    system = build_system(experiment)
    return TrainingData(system, experiment.training_datasets()[0])


def test_targets_of_several_sizes_are_trained_on_and_said_once(tiny_experiment, tmp_path) -> None:
    changes = {"training": {"dataset": {"sizes": [8, 12, 16]}}}
    with pytest.warns(UserWarning, match=r"target has (12x12|16x16) pixels.*image: says 8x8") as warned:
        result = train(tiny_experiment(changes), tmp_path / "run")
    assert len([one for one in warned if "pixels" in str(one.message)]) == 1
    assert all(math.isfinite(line["loss"]) for line in read_log(result.folder))


def test_a_target_that_the_tokens_do_not_fill_is_refused_by_key(tiny_experiment, tmp_path) -> None:
    changes = {"training": {"dataset": {"sizes": [9]}}}
    with pytest.raises(InputError, match=r"training\.dataset.*sample 'pair-000'.*9x9.*expected a multiple of 2"):
        train(tiny_experiment(changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sample_without_a_target_is_named(tiny_experiment) -> None:
    data = data_of(tiny_experiment, bare=3)
    with pytest.raises(InputError, match=r"training\.dataset.*sample 'pair-003' has no target image"):
        data.latents([2, 3], data.samples([2, 3]))


def test_an_empty_data_set_is_refused(tiny_experiment, tmp_path) -> None:
    with pytest.raises(InputError, match=r"training\.dataset.*holds no samples"):
        train(tiny_experiment({"training": {"dataset": {"count": 0}}}), tmp_path / "run")


def test_an_autoencoder_that_draws_does_so_from_the_runs_generator(tiny_experiment) -> None:
    experiment = tiny_experiment({"autoencoder": {"draws": True}})
    data = TrainingData(build_system(experiment), experiment.training_datasets()[0])
    found = [data.latents([0], data.samples([0]), generator=torch.Generator().manual_seed(n))[0] for n in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# -------------------------------------------------------------------------------------------------- progress (O14)


def test_the_first_line_comes_before_anything_slow(tiny_experiment, tmp_path, monkeypatch) -> None:
    said = io.StringIO()

    def slow(*_: Any, **__: Any) -> None:
        assert "building tiny" in said.getvalue()
        raise InputError("built")

    monkeypatch.setattr("subjectgen.runner.training.trainer.build_system", slow)
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
