"""``subjectgen demo``: the comparisons and strips that an experiment names, or your own picture under its variants."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subjectgen.core import InputError
from subjectgen.runner.cli.options import Device, Overrides, Prompts, References
from subjectgen.runner.cli.progress import Loading, Steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from subjectgen.runner.generation.batches import Step
    from subjectgen.runner.system.experiment import Experiment

STRIPS = "strips"
"""Folder of all strips."""
OWN_PROMPTS = ("the toy in the snow", "the toy on the beach", "the toy at night")


def demo(
    experiment: Annotated[
        str, typer.Argument(help="Experiment YAML, or the name of one in experiments/.", metavar="[EXPERIMENT]")
    ] = "demo",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for pages, images and scores; by default out/ and the experiment's name."),
    ] = None,
    reference: References = [],  # noqa: B006
    prompt: Prompts = [],  # noqa: B006
    override: Overrides = [],  # noqa: B006
    device: Device = None,
) -> None:
    """Show and score an experiment's comparisons, on toys that no training saw, or use your own picture."""
    started = time.monotonic()
    with Loading("reading the experiment", after=0.2):
        from subjectgen.core.disks import check_writable
        from subjectgen.runner.cli.check import file_of
        from subjectgen.runner.cli.experiments import find_experiment
        from subjectgen.runner.system.experiment import Experiment
        from subjectgen.runner.system.variants import check_changes

        file = file_of(find_experiment(experiment))
        out = out or Path("out") / Path(file).stem
        check_writable(out)
        if prompt and not reference:
            raise InputError("--prompt: needs --reference, the picture of your own subject")
        read = Experiment.read(file, override)
        if not read.settings.shown():
            raise InputError(
                f"{file}: names no comparisons; expected some, as experiments/toybox/demo.yaml has "
                "(docs/reference/experiment-files.md)"
            )
        check_changes(read)
    failed = _own_picture(read, reference, prompt or list(OWN_PROMPTS), out, device) if reference else False
    failed = failed or (not reference and _comparisons(read, out, device))
    typer.echo(f"{time.monotonic() - started:.0f} seconds")
    if failed:
        raise typer.Exit(1)


def _comparisons(read: Experiment, out: Path, device: str | None) -> bool:
    """Run them all with their strips, one after another; whether any variant or value failed."""
    with Loading("loading models"):
        from subjectgen.runner.evaluation.comparison import compare
        from subjectgen.runner.evaluation.progress import Progress
        from subjectgen.runner.evaluation.strips import run_strip
        from subjectgen.runner.evaluation.systems import Systems
        from subjectgen.runner.evaluation.wording import failure
        from subjectgen.runner.reports.page import write_page

    whole, systems = [], Systems(device)
    comparisons = {name: out / name for name in read.settings.shown()}
    strips = {name: out / STRIPS / name for name in read.settings.shown_strips()}
    with Steps("sampling") as steps:
        progress = Progress(say=steps.say, on_step=_told(steps), during=Loading)
        for name, folder in strips.items():  # a few pictures, so a number that is no sample's is told of soon
            whole.append(run_strip(read, name, folder, systems=systems, progress=progress))
        for name, folder in comparisons.items():
            result = compare(read, name, folder, systems=systems, progress=progress)
            whole.append(not any(map(failure, result.variants.values())))
    with Loading("writing the page"):
        files = write_page(out, list(comparisons.values()), strips=list(strips.values()), command=_command())
    for path in files:
        typer.echo(f"wrote {path}")
    return not all(whole)


def _told(steps: Steps) -> Callable[[str, int, Step], None]:
    """Takes what is generated, how many batches it has, and each of its steps."""
    begun: set[str] = set()

    def on_step(what: str, batches: int, step: Step) -> None:
        if what not in begun:
            begun.add(what)
            steps.expect(batches, what)
        steps(step)

    return on_step


def _own_picture(read: Experiment, pictures: list[Path], prompts: list[str], out: Path, device: str | None) -> bool:
    """Generate from the user's picture under all variants of the first comparison."""
    from subjectgen.runner.evaluation.systems import Systems
    from subjectgen.runner.generation.files import read_references, write_images
    from subjectgen.runner.generation.pipeline import SubjectPipeline
    from subjectgen.runner.generation.reference_files import ReferenceFiles
    from subjectgen.runner.generation.request import check_prompts
    from subjectgen.runner.generation.requests import Asked
    from subjectgen.runner.reports.own import write_own_page
    from subjectgen.runner.system.variants import variants

    check_prompts(prompts)
    files = ReferenceFiles(pictures=tuple(pictures))
    asked, _ = read_references([Asked(prompts=tuple(prompts), references=files, seeds=(0,))], strict=True)
    systems, made = Systems(device), {}
    name, comparison = next(iter(read.settings.shown().items()))
    for variant, changed in variants(read, name).items():
        with Loading(f"{variant}: loading"):
            pipeline = SubjectPipeline(systems.of(changed))
        with Steps(variant) as steps:
            written = write_images(
                pipeline, asked, out / "own" / variant, steps=None, batch_size=32, strict=True, begin=steps.expect,
                on_step=steps,
            )  # fmt: skip
        made[variant] = written.paths
        for path in written.paths:
            typer.echo(f"wrote {path}")
    titles = comparison.titles
    for path in write_own_page(out / "own", pictures, prompts, made, titles=titles, command=_command()):
        typer.echo(f"wrote {path}")
    return False


def _command() -> str:
    import shlex
    import sys

    return shlex.join(["subjectgen", *sys.argv[1:]])
