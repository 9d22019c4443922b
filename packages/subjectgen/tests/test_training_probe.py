"""The probe says what the velocity owes to references and prompts, and training never notices it."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from subjectgen.core import Reference, Sample
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.settings import PhaseSettings, TrainingSettings
from subjectgen.runner.system.trained import load_trained
from subjectgen.runner.training import interval
from subjectgen.runner.training.engine import Engine
from subjectgen.runner.training.losses import FlowMatching
from subjectgen.runner.training.measuring import TIMES, FixedRows, measure
from subjectgen.runner.training.observers import Observers
from subjectgen.runner.training.phases import new_phase, phase_data, phase_schedule
from subjectgen.runner.training.positions import generator
from subjectgen.runner.training.run import train
from subjectgen.runner.training.step import StepModule
from subjectgen.runner.training.swaps import Swaps

GREYS = (0.2, 0.5, 0.9)
DAY = ("seconds", "samples_per_second", "data_wait")
"""What of the log is of the day."""


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def log(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in DAY} for line in lines(folder / "metrics.jsonl")]


def grey(level: float, side: int = 8) -> Reference:
    return Reference(image=torch.full((3, side, side), level))


def rows_of(samples: list[Sample]) -> FixedRows:
    draw = torch.Generator().manual_seed(1)
    data, noise = (torch.randn(len(samples), 3, 4, 4, generator=draw) for _ in range(2))
    return FixedRows(samples=samples, data=list(data), noise=list(noise))


def found_by(system: Any, rows: FixedRows, micro_batch: int | None = None) -> dict[str, Any]:
    schedule = phase_schedule(system, PhaseSettings(steps=1))
    with torch.no_grad():
        return measure(system, rows, schedule, 2.0, micro_batch)


def factor(level: float) -> float:
    return math.tanh(1 + math.tanh(2 * level - 1))


def test_changes_and_losses_are_what_the_formula_says(hearing) -> None:
    rows = rows_of([Sample(prompt=f"{level}", references=(grey(level),)) for level in GREYS])
    found = found_by(hearing, rows)
    for t in TIMES:
        change = square = loss = 0.0
        for place, (data, noise) in enumerate(zip(rows.data, rows.noise, strict=True)):
            own, other = factor(GREYS[place]), factor(GREYS[(place + 1) % 3])
            x = ((1 - t) * data + t * noise).double()
            change += float(x.square().mean()) * (other - own) ** 2
            square += float(x.square().mean()) * own**2
            loss += float((x * own - (noise - data)).square().mean()) / 3
        assert found["references_by_t"][f"{t:g}"] == pytest.approx(change / square, rel=1e-4)
        assert found["loss_by_t"][f"{t:g}"] == pytest.approx(loss, rel=1e-4)
    assert found["loss"] == pytest.approx(sum(found["loss_by_t"].values()) / len(TIMES), rel=1e-5)
    assert found["references_by_branch"]["pictures"] == found["references_by_t"]
    assert found["rows"] == 3


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_who_is_not_heard_changes_exactly_nothing(tiny_experiment, micro_batch: int | None) -> None:
    """References of several sizes and numbers, in groups and alone: rounding must not look like hearing."""
    system = build_system(tiny_experiment())
    with torch.no_grad():
        for parameter in system.backbone.reference.parameters():
            parameter.zero_()
    sides = [(8,), (8,), (6,), (8, 8), (8, 8), (8,), (10,)]
    samples = [
        Sample(prompt=f"picture {n}", references=tuple(grey((n + 1) / 9, side) for side in sides[n])) for n in range(7)
    ]
    found = found_by(system, rows_of(samples), micro_batch)
    assert set(found["references_by_branch"]["pictures"].values()) == {0.0}
    assert min(found["references_by_branch"]["words"].values()) > 0
    assert min(found["prompts_by_t"].values()) > 0
    assert found["prompts_by_branch"] == {"words": found["prompts_by_t"]}


def test_where_there_is_no_other_row_nothing_is_claimed(hearing) -> None:
    same = [Sample(prompt="a cup", references=(grey(0.3),)) for _ in range(3)]
    found = found_by(hearing, rows_of(same))
    assert found["references_by_t"] is found["references_by_branch"] is found["prompts_by_t"] is None
    assert found["loss"] > 0


def test_a_row_takes_pictures_and_keeps_its_own_places() -> None:
    region = torch.ones(1, 4, 4)
    one = Sample(prompt="one", references=(replace(grey(0.1), region_mask=region, weight=0.5),))
    twin = replace(one, prompt="twin")
    other = Sample(prompt="other", references=(grey(0.9),))
    swaps = Swaps([one, twin, other])
    kept, (first, second, third) = swaps.of([0, 1, 2], "references")
    assert kept == [0, 1, 2]
    assert [float(sample.references[0].image.mean()) for sample in (first, second)] == pytest.approx([0.9, 0.9])
    assert (first.references[0].weight, first.prompt) == (0.5, "one")
    assert first.references[0].region_mask is region
    assert third.references[0].image is one.references[0].image
    assert [sample.prompt for sample in swaps.of([0, 1], "prompts")[1]] == ["twin", "one"]
    assert swaps.of([0, 1], "references")[0] == []  # in this piece nobody has another picture
    assert swaps.of([1], "references")[0] == [0]  # but one that runs alone may look everywhere


# ------------------------------------------------------------------------------------------------------ in a run

LOOKS = {"probe_every": 2, "probe_rows": 5, "samples_every": 3, "samples_rows": 2}


def test_training_never_notices(tiny_experiment, tmp_path) -> None:
    runs, state = [], torch.get_rng_state()
    for name, looks in (("plain", {}), ("watched", LOOKS)):
        changes = {"training": {"ema_decay": 0.9, **looks}, "autoencoder": {"draws": True}}
        runs.append(train(tiny_experiment(changes), tmp_path / name).folder)
    assert torch.equal(torch.get_rng_state(), state)
    plain, watched = runs
    files = sorted(path.relative_to(plain) for path in plain.rglob("*.safetensors"))
    assert files
    for file in files:
        expected, found = load_file(plain / file), load_file(watched / file)
        assert all(torch.equal(found[name], value) for name, value in expected.items()), file
    assert log(watched) == log(plain)
    assert [line["step"] for line in lines(watched / "probe.jsonl")] == [2, 3, 4, 6]  # 3 and 6 end a phase
    assert not (plain / "probe.jsonl").exists()


def test_a_line_is_about_the_phases_first_rows_under_the_weights_of_its_step(tiny, tiny_experiment, tmp_path) -> None:
    experiment = tiny_experiment({"training": {"phases": [{"steps": 4}], "probe_every": 4, "probe_rows": 5}})
    folder = train(experiment, tmp_path / "run").folder
    system = load_trained(build_system(tiny_experiment({"trained": str(folder)})))
    order = torch.randperm(12, generator=generator(0, "epoch", 0, 0, 0, 0)).tolist()
    pairs = tiny.Pairs(tiny.Pairs.Config())
    active = phase_schedule(system, PhaseSettings(steps=1)).active(0.5)
    (line,) = lines(folder / "probe.jsonl")
    for t in TIMES:
        losses = []
        for position in range(5):
            sample = pairs[order[position]]
            noise = torch.randn(3, 4, 4, generator=generator(0, "probe", 0, position))
            data = tiny.latents_of(sample.target[None])[0]
            losses.append(tiny.row_loss(system, sample, active, torch.tensor(t), data, noise).item())
        assert line["loss_by_t"][f"{t:g}"] == pytest.approx(sum(losses) / 5, rel=1e-4)
    assert (line["step"], line["rows"]) == (4, 5)


def test_it_is_said(tiny_experiment, tmp_path) -> None:
    said = io.StringIO()
    train(tiny_experiment({"training": LOOKS}), tmp_path / "run", console=Console(file=said))
    assert "step 2: loss 1." in said.getvalue()
    assert "on fixed rows, other references change " in said.getvalue()


def test_looks_are_in_no_speed(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(interval, "time", SimpleNamespace(monotonic=lambda: now[0]))
    one = interval.Interval({"stage": {"all": (2.0, 8)}})
    one.waited(1.0)
    one.looked(60.0)
    now[0] += 64.0
    line = one.line(one)
    assert (line["samples_per_second"], line["data_wait"]) == (2.0, 0.25)


class Looker:
    """Draws, and fails when it is told to."""

    name, every = "the looker", 2

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.modes: list[bool] = []

    def __call__(self, moment: Any) -> None:
        torch.rand(3)
        self.steps.append(moment.step)
        self.modes.append(moment.system.backbone.training or torch.is_grad_enabled())
        if moment.step == 6:
            raise RuntimeError("out of\nmemory")


def test_who_fails_is_told_of_once_and_left_out(tiny_experiment) -> None:
    experiment = tiny_experiment()
    system = build_system(experiment)
    system.set_training(True)
    engine = Engine(TrainingSettings(phases=({"steps": 1},)), "cpu")
    phase, looker, said = new_phase(system, 0, phase_data(experiment)[0], FlowMatching()), Looker(), []
    observers = Observers([looker], system, StepModule(system), engine, said.append)
    state = torch.get_rng_state()
    spent = [observers.after(phase, step, last=step == 5) for step in range(1, 11)]
    assert looker.steps == [2, 4, 5, 6]
    assert looker.modes == [False] * 4
    assert [seconds > 0 for seconds in spent] == [step in looker.steps for step in range(1, 11)]
    assert said == ["the looker failed at step 6 and is left out from now on: RuntimeError: out of memory"]
    assert torch.equal(torch.get_rng_state(), state)
    assert system.backbone.training


def test_a_probe_that_fails_does_not_cost_the_run(tiny_experiment, tmp_path, monkeypatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr("subjectgen.runner.training.probe.measure", fails)
    said = io.StringIO()
    folder = train(tiny_experiment({"training": LOOKS}), tmp_path / "run", console=Console(file=said)).folder
    assert (folder / "trained").is_dir()
    assert said.getvalue().count("the probe (training.probe_every) failed at step 2") == 1
    assert "failed at step 3" not in said.getvalue()
