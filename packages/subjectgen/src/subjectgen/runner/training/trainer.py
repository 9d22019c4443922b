"""Training in phases on accelerate: rectified flow, stage masks and branch dropout from the experiment's schedule."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from subjectgen.core import EVERYTHING, NOTHING, ActiveBranches, ConfigError, InputError, Sample, Schedule, Streams
from subjectgen.runner.assemble import System
from subjectgen.runner.conditioning import group_rows, training_streams
from subjectgen.runner.experiment import PhaseSettings, TrainingSettings
from subjectgen.runner.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Result:
    """What training returns."""

    folder: Path
    losses: dict[str, float]
    """Mean loss of the last logged interval, by phase."""


class Trainer:
    """Trains what the experiment leaves unfrozen."""

    def __init__(self, system: System, out: Path, *, console: Console | None = None) -> None:
        settings = system.experiment.settings.training
        datasets = system.experiment.training_datasets()
        assert settings is not None  # or there would be no datasets
        self.system, self.settings = system, settings
        self.console = console or Console(stderr=True)
        AcceleratorState._reset_state()  # it is one per process and would keep an earlier trainer's precision
        self.accelerator = Accelerator(mixed_precision=settings.mixed_precision, cpu=system.device.type == "cpu")
        if self.accelerator.num_processes > 1:
            raise InputError(
                f"training: launched with {self.accelerator.num_processes} processes; expected one, for all of them "
                "would train on the same samples and write the same folder"
            )
        self.datasets = self._build_datasets(datasets)
        """One per phase; phases that say the same share one."""
        self.dataset = self.datasets[0]
        self.run = RunDirectory(out, system)
        self._generator = torch.Generator().manual_seed(system.experiment.settings.seed)
        self._targets: dict[int, Tensor] = {}
        self.step = 0
        self._started = time.monotonic()

    def train(self) -> Result:
        """Run all phases; a checkpoint follows each."""
        self._check()
        set_seed(self.system.experiment.settings.seed)
        losses = {}
        for number, phase in enumerate(self.settings.phases):
            name = f"phase {number + 1} ({phase.name or '+'.join(phase.branches or tuple(self.system.branches))})"
            self._use_dataset(self.datasets[number])
            losses[name] = self._phase(name, phase)
            self.run.save_trained()
        return Result(folder=self.run.folder, losses=losses)

    def _check(self) -> None:
        """Find what would fail later, before anything is written."""
        for number, phase in enumerate(self.settings.phases):
            if not self.system.trainable(phase.branches):
                raise ConfigError(f"training.phases.{number}: nothing to train; set backbone.lora or use an aggregator")
        for dataset in _distinct(self.datasets):
            sample = dataset[0]
            if sample.target is None:
                raise InputError("training.dataset: a sample has no target image; expected one in every sample")
            self.system.autoencoder.encode_images(sample.target[None].to(self.system.device))

    # ----------------------------------------------------------------------------------------------------- phase

    def _phase(self, name: str, phase: PhaseSettings) -> float:
        schedule = phase_schedule(self.system, phase)
        parameters = list(self.system.trainable(phase.branches).values())
        rate = phase.learning_rate or self.settings.learning_rate
        optimizer = self.accelerator.prepare(
            torch.optim.AdamW(parameters, lr=rate, weight_decay=self.settings.weight_decay)
        )
        interval, last = Interval(), math.nan
        self._set_training(True)
        with _progress(self.console) as progress:
            task = progress.add_task(name, total=phase.steps, loss="")
            for step, indices in zip(range(phase.steps), self._batches(), strict=False):
                _set_rate(optimizer, rate * _factor(step, phase.steps, self.settings))
                interval.add(self._step(schedule, indices, parameters, optimizer))
                if not self.step:  # memory has held a step: a run that cannot begin leaves nothing behind
                    self.run.begin(_distinct(self.datasets))
                self.step += 1
                if (step + 1) % self.settings.log_every == 0 or step + 1 == phase.steps:
                    last = interval.loss
                    if not math.isfinite(last):
                        raise InputError(f"training: the loss is {last} at step {self.step}; lower the learning rate")
                    progress.update(task, loss=" ".join(f"{k} {v:.3f}" for k, v in interval.by_stage.items()))
                    seconds = round(time.monotonic() - self._started, 1)
                    self.run.log({"step": self.step, "phase": name, "seconds": seconds, **interval.close()})
                if self.settings.save_every and self.step % self.settings.save_every == 0:
                    self.run.save_trained()
                progress.advance(task)
        self._set_training(False)
        self.accelerator.free_memory(optimizer)
        return last

    def _step(
        self, schedule: Schedule, indices: list[int], parameters: list[nn.Parameter], optimizer: Any
    ) -> list[tuple[str, float]]:
        """One optimizer step; returns stage and loss of each row."""
        samples = [self.dataset[index] for index in indices]
        data = self._target_latents(indices, samples)
        tokens = data.shape[-2] * data.shape[-1] // self.system.backbone.patch_size**2
        t = schedule.sample_timesteps(len(samples), image_tokens=tokens, generator=self._generator)
        hidden = schedule.sample_dropout(len(samples), generator=self._generator)
        start = torch.randn(data.shape, generator=self._generator).to(data)
        active = [schedule.active(float(time)).restricted(hide) for time, hide in zip(t, hidden, strict=True)]
        outcomes: list[tuple[str, float]] = []
        for group in group_rows(self.system, samples, active):
            with self.accelerator.autocast():
                streams = training_streams(
                    self.system,
                    [samples[i] for i in group],
                    [active[i] for i in group],
                    target_grid=tuple(side // self.system.backbone.patch_size for side in data.shape[-2:]),
                )
                losses = self._losses(data[group], start[group], t[group].to(data), streams)
            if losses.requires_grad:  # not where nothing trainable takes part: no adapter, and the aggregator is off
                self.accelerator.backward(losses.sum() / len(samples))
            stages = [schedule.stage(float(t[row])) for row in group]
            outcomes += zip(stages, losses.detach().tolist(), strict=True)
        self.accelerator.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return outcomes

    def _losses(
        self, data: Float[Tensor, "b c h w"], start: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], streams: Streams
    ) -> Float[Tensor, " b"]:
        """Rectified flow: x_t = (1 - t) data + t noise; the target is noise - data; mean squared error of each row."""
        mix = t[:, None, None, None]
        backbone = self.system.backbone
        guidance = self.settings.guidance if backbone.guidance_embedded else None
        velocity = backbone((1 - mix) * data + mix * start, t, streams, guidance=guidance)
        return (velocity.float() - (start - data).float()).square().mean(dim=(1, 2, 3))

    # ------------------------------------------------------------------------------------------------------ data

    def _build_datasets(self, wanted: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Any]:
        built: dict[str, Any] = {}
        datasets = []
        for where, spec in wanted:
            key = json.dumps(spec, sort_keys=True, default=str)
            if key not in built:
                built[key] = self.system.plugins.build("datasets", spec, where=where, **self.system.experiment.place())
                if len(built[key]) == 0:
                    raise InputError(f"{where}: holds no samples")
            datasets.append(built[key])
        return datasets

    def _use_dataset(self, dataset: Any) -> None:
        if dataset is not self.dataset:
            self.dataset, self._targets = dataset, {}

    def _batches(self) -> Iterator[list[int]]:
        """Endless batches of indices; every sample once per pass, in an order the seed decides."""
        size = min(self.settings.batch_size, len(self.dataset))
        while True:
            order = torch.randperm(len(self.dataset), generator=self._generator).tolist()
            for start in range(0, len(order) - size + 1, size):
                yield order[start : start + size]

    def _target_latents(self, indices: list[int], samples: list[Sample]) -> Tensor:
        missing = [place for place, index in enumerate(indices) if index not in self._targets]
        fresh: dict[int, Tensor] = {}
        if missing:
            targets = [target for place in missing if (target := samples[place].target) is not None]
            if len(targets) < len(missing):
                raise InputError("training.dataset: a sample has no target image; expected one in every sample")
            encoded = self.system.autoencoder.encode_images(torch.stack(targets).to(self.system.device)).float()
            fresh = {indices[place]: row for place, row in zip(missing, encoded, strict=True)}
        if self.settings.cache_targets:
            self._targets |= {index: row.cpu() for index, row in fresh.items()}
            fresh = self._targets
        return torch.stack([fresh[index] for index in indices]).to(self.system.device)

    def _set_training(self, training: bool) -> None:
        for part in self.system.trained_modules():
            part.train(training)


def phase_schedule(system: System, phase: PhaseSettings) -> Schedule:
    """The experiment's schedule; where a phase has fewer branches or no stage masks, its branches always speak."""
    names = phase.branches or tuple(system.branches)
    if phase.stage_masks and len(names) == len(system.branches):
        return system.schedule
    return AlwaysOn(system.schedule, names, tuple(system.branches))


class AlwaysOn:
    """A schedule whose stages are suspended: some branches speak at every timestep, the others never.

    The others take no part in the phase, so they leave the sequence also where the schedule says ``inactive: zero``.
    """

    def __init__(self, schedule: Schedule, speaking: tuple[str, ...], branches: tuple[str, ...]) -> None:
        self._schedule = schedule
        self.steps = schedule.steps
        visibility = {name: EVERYTHING if name in speaking else NOTHING for name in branches}
        self._active = ActiveBranches(visibility=visibility)

    def active(self, timestep: float) -> ActiveBranches:
        """The same branches at every timestep."""
        return self._active

    def stage(self, timestep: float) -> str:
        """One stage."""
        return "all"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._schedule, name)


class Interval:
    """Losses between two lines of the log, in total and by stage."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._started = time.monotonic()

    def add(self, outcomes: list[tuple[str, float]]) -> None:
        """Take in the rows of one step."""
        for stage, loss in outcomes:
            self._sums[stage] = self._sums.get(stage, 0.0) + loss
            self._counts[stage] = self._counts.get(stage, 0) + 1

    @property
    def loss(self) -> float:
        """Mean over rows."""
        return sum(self._sums.values()) / max(sum(self._counts.values()), 1)

    @property
    def by_stage(self) -> dict[str, float]:
        """Mean over the rows of each stage."""
        return {stage: total / self._counts[stage] for stage, total in sorted(self._sums.items())}

    def close(self) -> Mapping[str, Any]:
        """Values for the log; starts a new interval."""
        line = {
            "loss": round(self.loss, 6),
            "loss_by_stage": {stage: round(loss, 6) for stage, loss in self.by_stage.items()},
            "samples_per_second": round(sum(self._counts.values()) / (time.monotonic() - self._started), 2),
        }
        self._reset()
        return line


def _distinct(datasets: list[Any]) -> list[Any]:
    return list({id(dataset): dataset for dataset in datasets}.values())


def _factor(step: int, steps: int, settings: TrainingSettings) -> float:
    """Share of the full learning rate at a step."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    done = step / steps
    fall = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return warm * fall[settings.lr_schedule]


def _set_rate(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
        console=console,
    )
