"""What the trainer costs beside the model: a step against plain lines, waiting for data, resuming late, saving.

Run by ``nox -s benchmarks``, or alone: ``python tests/benchmarks/training.py --batch 8``. The toybox's model trains on
toys. ``plain``: read, encode, draw, forward, backward, clip and AdamW, written down without a trainer, on the same
samples and draws (losses are compared before timing). The rows take turns in every round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _side_by_side import introduce, measure, parser, ratio

from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.system import System
from subjectgen.runner.training.draws import draw_batch
from subjectgen.runner.training.loading import Share, load_rows
from subjectgen.runner.training.losses import FlowMatching
from subjectgen.runner.training.order import Order
from subjectgen.runner.training.phases import Phase
from subjectgen.runner.training.positions import derived_seed
from subjectgen.runner.training.rows import Rows
from subjectgen.runner.training.run import open_trainer, train_system
from subjectgen.runner.training.targets import Targets
from subjectgen.runner.training.trainer import Trainer

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "toybox" / "demo.yaml"
FIRST, LATE = 1, 100_000


def system(options: argparse.Namespace, *more: str) -> System:
    """The toybox's model, in one phase of both branches, on toys that are rendered once."""
    changes = [
        "trained=null",
        f"training.batch_size={options.batch}",
        "training.phases=[{name: both, steps: 1000000}]",
        "training.dataset={name: toy_pairs, toys: 64, views: 4}",
        "training.mixed_precision='no'",
        "training.lr_schedule=constant",
        "schedule.dropout.table=[]",
        *more,
    ]
    return build_system(Experiment.read(EXPERIMENT, changes), device=options.device)


def plain_step(one: System, rows: Rows, batch: int, phase: Phase) -> Callable[[], float]:
    """A step in plain lines; each call takes the next positions."""
    parameters = list(one.trainable().values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)
    loss_of = FlowMatching(guidance=1.0)
    step = 0

    def run() -> float:
        nonlocal step
        positions = range(step * batch, (step + 1) * batch)
        samples = [rows[position].sample for position in positions]
        with torch.no_grad():
            images = torch.stack([sample.target for sample in samples])  # type: ignore[union-attr,misc]
            data = list(one.autoencoder.encode_images(images.to(one.device)).float())
        seeds = [derived_seed(0, "row", 0, position) for position in positions]
        drawn = draw_batch(one, phase.schedule, samples, data, seeds=seeds)  # type: ignore[arg-type]
        loss = loss_of(one, drawn, range(batch)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        return float(loss.detach())

    return run


def trainer_step(trainer: Trainer, rows: Rows, phase: Phase, batch: int) -> Callable[[], float]:
    """The same step as the trainer makes it."""
    targets = Targets(trainer.system, phase.data.order, phase=0)
    loaded = load_rows(rows, Share(batch_size=batch), first=0, steps=phase.settings.steps, workers=0)

    def run() -> float:
        read = next(loaded)
        return trainer.stepper.make(phase, trainer.stepper.draw(phase, read, targets), step=0).loss

    return run


def steps(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """A trainer's step over a plain one."""
    one, other = system(options), system(options)
    with open_trainer(other, folder / "run") as trainer:
        phase = trainer.phase(0)
        rows = Rows(phase.data.datasets, phase.data.order, seed=0, phase=0)
        other.set_training(True)
        one.set_training(True)
        ways = {"plain": plain_step(one, rows, options.batch, phase)}
        ways["trainer"] = trainer_step(trainer, rows, phase, options.batch)
        first = [way() for way in ways.values()]
        assert abs(first[0] - first[1]) < 1e-5, first
        times = measure(ways, options.repeats, options.device)
    for name, found in times.items():
        yield f"{name:<8} {statistics.median(found):9.1f} ms   {ratio(times, name, 'plain'):.3f} of plain"


def waiting(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Share of the time in which a step had no data."""
    for workers in (0, 2):
        more = (f"training.workers={workers}", "training.phases=[{name: both, steps: 40}]", "training.log_every=20")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = train_system(system(options, *more), folder / f"waiting-{workers}").folder
        line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        wait, pace = f"{line['data_wait']:.1%} of the time", f"{line['samples_per_second']:.1f} samples/s"
        yield f"{workers} workers   data wait {wait}, {pace}"


def resuming(options: argparse.Namespace) -> Iterator[str]:
    """Time to the rows of the first step after a resume."""
    one = system(options)
    with tempfile.TemporaryDirectory() as folder, open_trainer(one, Path(folder) / "run") as trainer:
        data = trainer.data[0]
        for step in (FIRST, LATE):
            taken = []
            for _ in range(options.repeats):
                order = Order(data.order.sources, seed=0, phase=0, batch_size=options.batch)
                began = time.perf_counter()
                for position in Share(batch_size=options.batch).positions(step):
                    order.at(position)
                taken.append(1000 * (time.perf_counter() - began))
            yield f"step {step:>7,}   its {options.batch} places known after {statistics.median(taken):.2f} ms"


def saving(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """How long a save stops training, beside how long writing takes."""
    one = system(options)
    with open_trainer(one, folder / "saving") as trainer:
        phase = trainer.phase(0)
        one.set_training(True)
        rows = Rows(phase.data.datasets, phase.data.order, seed=0, phase=0)
        trainer_step(trainer, rows, phase, options.batch)()
        began = time.perf_counter()
        snapshot = trainer.snapshot(phase)
        copied = time.perf_counter()
        trainer.run.begin(one, list)
        written = time.perf_counter()
        trainer.run.write(snapshot, one, {}, trainer.settings)
        ended = time.perf_counter()
        tensors = (*snapshot.values.values(), *snapshot.optimizer.values())
        size = sum(value.numel() * value.element_size() for value in tensors) / 1e6
        stands = f"copy {1000 * (copied - began):.1f} ms (training stands still)"
        yield f"{stands}, write {1000 * (ended - written):.1f} ms (beside it), {size:.1f} MB"


def main() -> None:
    """Print the tables."""
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=8)
    options = made.parse_args()
    introduce(options)
    with tempfile.TemporaryDirectory() as folder:
        for title, lines in (
            (f"a step on {options.batch} rows", steps(options, Path(folder))),
            ("waiting for data", waiting(options, Path(folder))),
            ("resuming", resuming(options)),
            ("saving", saving(options, Path(folder))),
        ):
            print(f"\n{title}")
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
