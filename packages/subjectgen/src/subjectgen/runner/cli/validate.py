"""``subjectgen validate``: the loss on held-out samples by who is heard, and what each branch is worth."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subjectgen.core import InputError
from subjectgen.runner.cli.options import Device, Overrides, TrainedPath
from subjectgen.runner.cli.progress import Loading

if TYPE_CHECKING:
    from subjectgen.core import Sample
    from subjectgen.runner.generation.pipeline import SubjectPipeline

Losses = dict[str, dict[float, dict[str, float]]]
"""By who is heard, timestep and sample."""


def validate(
    experiment: TrainedPath,
    comparison: Annotated[
        str | None,
        typer.Option(help="Whose data set gives the samples; by default the first comparison's.", metavar="NAME"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples, evenly over the data set.")] = 96,
    t: Annotated[
        list[float], typer.Option(min=0, max=1, help="Timestep; by default 0.1, 0.3 ... 0.9. May be repeated.")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per pass.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="Folder for losses.jsonl, a line per loss, and gains.json.", metavar="FOLDER")
    ] = None,
    override: Overrides = [],  # noqa: B006
    device: Device = None,
) -> None:
    """The loss with nothing heard, each branch alone, and all: which branch is read, and at which timesteps."""
    with Loading("loading"):
        from subjectgen.core.disks import check_writable
        from subjectgen.runner.cli.experiments import find_experiment
        from subjectgen.runner.evaluation.gains import contrasts, gain
        from subjectgen.runner.evaluation.rows import subject_of
        from subjectgen.runner.generation.pipeline import open_pipeline
        from subjectgen.runner.training.heard import NOBODY, everyone
        from subjectgen.runner.training.measuring import TIMES

        if out is not None:
            check_writable(out)
        if any(one <= 0 for one in t):
            raise InputError(f"--t: got {min(t):g}; expected timesteps above 0, where there is noise to be told from")
        pipeline = open_pipeline(find_experiment(experiment), overrides=override, device=device)
        chosen = _samples(pipeline, comparison, samples)
    times = tuple(dict.fromkeys(t)) or TIMES
    losses = _losses(pipeline, chosen, times, seed, batch_size)
    subjects = {sample.key: subject_of(sample.key, sample.facts) for sample in chosen}
    names = list(pipeline.system.branches)
    compared = contrasts(names, NOBODY, everyone(names))
    gains = {
        f"{one} against {other}": {time: gain(losses[one][time], losses[other][time], subjects) for time in times}
        for one, other in compared
    }
    count = len(set(subjects.values()))
    typer.echo(f"{len(chosen)} samples of {count} subjects; the same noise for all, seed {seed}")
    _table("loss", times, {name: [f"{_mean(found[time]):.4f}" for time in times] for name, found in losses.items()})
    _table("gain ± standard error", times, {
        name: [f"{one.mean:.4f}" + ("" if one.error is None else f"±{one.error:.4f}") for one in found.values()]
        for name, found in gains.items()
    })  # fmt: skip
    if out is not None:
        _write(out, losses, gains, subjects)


def _samples(pipeline: SubjectPipeline, comparison: str | None, count: int) -> list[Sample]:
    from subjectgen.core import nearest

    experiment = pipeline.system.experiment
    shown = experiment.settings.shown()
    if not shown:
        raise InputError(f"{experiment.name}: names no comparisons, whose samples could be read")
    name = comparison or next(iter(shown))
    if name not in shown:
        raise InputError(f"--comparison: got {name!r}; expected one of {', '.join(shown)}{nearest(name, shown)}")
    dataset = experiment.parts.comparisons[name].dataset.build()
    numbers = range(0, len(dataset), max(len(dataset) // count, 1))[:count]
    return [dataset[number] for number in numbers]


def _losses(
    pipeline: SubjectPipeline, samples: list[Sample], times: tuple[float, ...], seed: int, batch_size: int
) -> Losses:
    from subjectgen.runner.cli.progress import Counted
    from subjectgen.runner.training.heard import heard_losses, who_is_heard

    system = pipeline.system
    training = system.experiment.settings.training
    found: Losses = defaultdict(lambda: defaultdict(dict))
    count, done = len(samples) * len(times) * len(who_is_heard(list(system.branches))), 0
    with Counted("measuring", "losses") as counted:
        for first in range(0, len(samples), batch_size):
            for one in heard_losses(
                system,
                samples[first : first + batch_size],
                first=first,
                times=times,
                guidance=training.guidance if training else 1.0,
                seed=seed,
            ):
                found[one.heard][one.t][one.key] = one.loss
                done += 1
                counted(done, count)
    return found


def _write(out: Path, losses: Losses, gains: dict[str, Any], subjects: dict[str, str]) -> None:
    from dataclasses import asdict

    from subjectgen.core.files import atomic_write
    from subjectgen.core.json_files import write_json
    from subjectgen.core.text import json_text

    rows = [
        {"key": key, "subject": subjects[key], "t": time, "heard": heard, "loss": loss}
        for heard, by_time in losses.items()
        for time, by_key in by_time.items()
        for key, loss in by_key.items()
    ]
    with atomic_write(out / "losses.jsonl") as unfinished:
        unfinished.write_text("".join(f"{json_text(row)}\n" for row in rows), encoding="utf-8")
    write_json(out / "gains.json", {
        name: {f"{time:g}": asdict(one) for time, one in found.items()} for name, found in gains.items()
    })  # fmt: skip
    typer.echo(f"wrote {out / 'losses.jsonl'} and {out / 'gains.json'}")


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _table(title: str, times: tuple[float, ...], rows: dict[str, list[str]]) -> None:
    first = max(map(len, [title, *rows]))
    width = max(len(cell) for cells in rows.values() for cell in cells)
    typer.echo(f"{title:<{first}}  " + "  ".join(f"{f't = {time:g}':>{width}}" for time in times))
    for name, cells in rows.items():
        typer.echo(f"{name:<{first}}  " + "  ".join(f"{cell:>{width}}" for cell in cells))
