"""Resumable trainings: a kill changes nothing, files are whole at any time, and every command makes loadable models."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from subjectgen.core import CheckpointError, resolve_checkpoint
from subjectgen.toybox.detailed.judge import DetailedJudge
from subjectgen.toybox.detailed.pretraining import base, checkpoint, gates, judge, mllm, vae
from subjectgen.toybox.detailed.pretraining.muon import Muon, hidden_layers, orthogonal
from subjectgen.toybox.detailed.pretraining.pool import Pool, open_pool, shard_facts
from subjectgen.toybox.detailed.pretraining.run import Plan, Run
from subjectgen.toybox.detailed.pretraining.schedule import Schedule
from subjectgen.toybox.detailed.renderer import Renderer
from subjectgen.toybox.detailed.world import may_be_trained, poses_are_shared
from subjectgen.toybox.pretraining.optimizers import moving_average

STEPS = 4


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return open_pool(tmp_path_factory.mktemp("pool"), 16, seed=3, compiled=False)


def toy_training(out: Path, *, until: int, seed: int = 0, steps: int = STEPS) -> Run:
    """A linear model with AdamW and an average; stops after ``until`` steps as a kill does, without saying goodbye."""
    torch.manual_seed(7)
    model = torch.nn.Linear(3, 1)
    average, optimizer = moving_average(model, 0.5), torch.optim.AdamW(model.parameters(), lr=0.1)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    plan = Plan(steps=steps, minutes=1, seed=seed, save_every=0.0, log_every=0.0)
    run = Run(out, "line", parts, plan=plan, settings={})
    for step in run.remaining():
        if step == until:
            raise KeyboardInterrupt
        Schedule(steps=steps, warmup=2).apply(optimizer, step)
        loss = model(torch.randn(5, 3, generator=run.draw(step).generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        run.add(5, loss=loss.detach())
    return run


def state(out: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"{name}.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("killed", [1, 2, 3])
def test_a_training_that_was_killed_ends_bit_for_bit_where_another_one_does(tmp_path: Path, killed: int) -> None:
    assert toy_training(tmp_path / "whole", until=-1).finished
    with pytest.raises(KeyboardInterrupt):
        toy_training(tmp_path / "killed", until=killed)
    run = toy_training(tmp_path / "killed", until=-1)
    assert (run.step, run.samples) == (STEPS, 5 * STEPS)
    assert same(state(tmp_path / "whole", "line"), state(tmp_path / "killed", "line"))


def test_a_log_goes_on_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy_training(tmp_path, until=2)
    path = tmp_path / "logs" / "line.jsonl"
    path.write_text(path.read_text() + json.dumps({"step": 3, "loss": 0.0}) + "\n")  # of a step after the checkpoint
    toy_training(tmp_path, until=-1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["command"].startswith("python -m subjectgen.toybox.detailed.pretraining")
    steps = [line["step"] for line in lines[1:] if "loss" in line]
    assert steps == sorted(set(steps))
    assert [line["step"] for line in lines if line.get("resumed")] == [2]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    toy_training(tmp_path, until=-1)
    with pytest.raises(CheckpointError, match="seed"):
        toy_training(tmp_path, until=-1, seed=1)


def test_the_time_budget_ends_a_call_and_not_the_training(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    run = Run(tmp_path, "idle", {"model": model}, plan=Plan(steps=5, minutes=0.0, seed=0), settings={})
    assert list(run.remaining()) == []
    assert not run.finished


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = torch.nn.Linear(2, 2), tmp_path / "model.safetensors"
    checkpoint.save(path, {"model": model}, {"step": 1})

    def killed(tensors: object, beside: Path, **_: object) -> None:
        beside.write_bytes(b"half of a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"model": torch.nn.Linear(2, 2)}, {"step": 2})
    other = torch.nn.Linear(2, 2)
    assert checkpoint.load(path, {"model": other}) == {"step": 1}
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(CheckpointError, match="average"):
        checkpoint.load(path, {"average": other})


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_muon_steps_along_a_nearly_orthogonal_matrix(shape: tuple[int, int]) -> None:
    update = orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert update.shape == shape
    values = torch.linalg.svdvals(update)
    assert 0.6 < values.min() <= values.max() < 1.3


def test_muon_takes_hidden_layers_and_learns() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3))
    matrices, others = hidden_layers(model)
    assert [parameter.shape for parameter in matrices] == [(16, 16, 3, 3)]
    assert len(matrices) + len(others) == 4
    muon, pictures = Muon(matrices, lr=0.01), torch.randn(4, 3, 8, 8)
    losses = []
    for _ in range(20):
        loss = (model(pictures) - 1).square().mean()
        model.zero_grad()
        loss.backward()
        muon.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_more_steps_change_nothing_before_the_rate_falls() -> None:
    short, long = Schedule(steps=100, warmup=5, falling=0.3), Schedule(steps=200, warmup=5, falling=0.3)
    assert [short.factor(step) for step in range(70)] == [long.factor(step) for step in range(70)]
    assert short.factor(99) < 0.05


def test_a_pool_is_of_training_toys_and_pairs_of_views(pool: Pool) -> None:
    assert all(may_be_trained(toy) for toy in pool.toys)
    for number in range(0, len(pool), 2):
        assert pool.toys[number] == pool.toys[number + 1]
    assert len({toy.words for toy in pool.toys[:8]}) == 1
    _, views = shard_facts(0, seed=5, pictures=256)
    shared = [poses_are_shared(views[k], views[k + 1]) for k in range(0, 256, 2)]
    assert sum(shared) == len(shared) / 2


def test_a_pool_is_rendered_once(tmp_path: Path) -> None:
    first = open_pool(tmp_path, 8, seed=1, compiled=False)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    second = open_pool(tmp_path, 8, seed=1, compiled=False)
    assert torch.equal(first.images, second.images)
    assert file.stat().st_mtime_ns == written


def test_masks_of_the_pool_are_those_of_the_renderer(tmp_path: Path) -> None:
    pool = open_pool(tmp_path, 8, seed=1, compiled=False)
    _, masks = Renderer()(pool.toys, pool.views)
    assert torch.equal(pool.masks(torch.arange(8)), masks)
    assert 0.02 < float(masks.float().mean()) < 0.9


@pytest.mark.slow
def test_latents_are_kept_for_one_autoencoder_and_made_again_for_another(tmp_path: Path, pool: Pool) -> None:
    first = AutoencoderKL.from_pretrained(resolve_checkpoint(vae.START))
    first.save_pretrained(tmp_path / "detailed_vae")
    made = base.pool_latents(tmp_path, pool, "cpu")
    assert torch.equal(base.pool_latents(tmp_path, pool, "cpu"), made)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    with torch.no_grad():
        first.encoder.conv_in.weight.mul_(1.5)
    first.save_pretrained(tmp_path / "detailed_vae")
    assert not torch.equal(base.pool_latents(tmp_path, pool, "cpu"), made)


PLAN = Plan(steps=STEPS, minutes=9, seed=0)


def _vae(out: Path, pool: Pool) -> None:
    vae.train(out, pool=pool, plan=PLAN, start=vae.START, batch_size=2, device="cpu", held_out=2)


def _judge(out: Path, pool: Pool) -> None:
    judge.train(out, pool=pool, plan=PLAN, families=1, device="cpu", held_out=8)


def _mllm(out: Path, pool: Pool) -> None:
    mllm.train(out, family="internvl3", size="small", pool=pool, plan=PLAN, batch_size=2, device="cpu")


def _base(out: Path, pool: Pool) -> None:
    if not (out / "detailed_vae").exists():
        AutoencoderKL.from_pretrained(resolve_checkpoint(vae.START)).save_pretrained(out / "detailed_vae")
    start = "package:subjectgen.toybox/weights"
    base.train(out, pool=pool, plan=PLAN, batch_size=2, device="cpu", start=start, compiled=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "name"),
    [(_vae, "detailed_vae"), (_judge, "detailed_judge"), (_mllm, "detailed_internvl3_small"), (_base, "detailed_base")],
)
def test_every_training_resumes_bit_for_bit(
    tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch, train: Callable[[Path, Pool], None], name: str
) -> None:
    """A training that is stopped after two steps of four, as by its time budget, ends as one that is not."""
    torch.set_num_threads(1)
    train(tmp_path / "whole", pool)
    stopped = _stop_after(monkeypatch, 2)
    train(tmp_path / "stopped", pool)
    monkeypatch.setattr(Run, "remaining", stopped)
    train(tmp_path / "stopped", pool)
    assert same(state(tmp_path / "whole", name), state(tmp_path / "stopped", name))


def _stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> object:
    whole = Run.remaining

    def some(self: Run) -> object:
        for count, step in enumerate(whole(self)):
            if count == steps:
                self.save()
                return
            yield step

    monkeypatch.setattr(Run, "remaining", some)
    return whole


@pytest.mark.slow
def test_gates_are_measured_with_intervals_and_reconstructions_drawn(tmp_path: Path) -> None:
    AutoencoderKL.from_pretrained(resolve_checkpoint(vae.START)).save_pretrained(tmp_path / "detailed_vae")
    DetailedJudge().save(tmp_path / "detailed_judge")
    values = gates.measure(tmp_path, pictures=8, families=1, seed=0, compiled=False)
    assert {"psnr", "words", "badge", "identity", "azimuth_error", "decoded_badge"} <= values.keys()
    assert 20 < values["psnr"].low <= values["psnr"].mean <= values["psnr"].high < 35
    assert json.loads((tmp_path / "gates.json").read_text())["psnr"]["n"] == 8
    with Image.open(tmp_path / "reconstructions.png") as sheet:
        assert sheet.size == (8 * 96 * 2, 2 * 96 * 2)


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(tmp_path: Path) -> None:
    """The command itself, killed in the middle of a training, ends with the weights of a command that was not."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "subjectgen.toybox.detailed.pretraining", "vae", "--no-compiled"]
    for option, value in (("pictures", 8), ("batch-size", 1), ("steps", 5), ("save-every", 0), ("held-out", 2)):
        command += [f"--{option}", str(value)]
    command += ["--pool", str(tmp_path / "pool"), "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True)
    path = tmp_path / "killed" / "checkpoints" / "detailed_vae.safetensors"
    process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment)
    while not path.exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, str(tmp_path / "killed")], env=environment, check=True)
    assert same(state(tmp_path / "whole", "detailed_vae"), state(tmp_path / "killed", "detailed_vae"))
    weights = "detailed_vae/diffusion_pytorch_model.safetensors"
    assert same(load_file(tmp_path / "whole" / weights), load_file(tmp_path / "killed" / weights))
