"""``subjectgen demo``: the comparisons that an experiment names, or your own picture under its variants."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subjectgen.core import InputError
from subjectgen.runner.cli.options import Device, Overrides, Prompts, References
from subjectgen.runner.cli.progress import Loading, Steps

if TYPE_CHECKING:
    from subjectgen.runner.system.experiment import Experiment

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
    with Loading("reading the experiment"):
        from subjectgen.core.disks import check_writable
        from subjectgen.runner.cli.check import file_of
        from subjectgen.runner.cli.experiments import find_experiment
        from subjectgen.runner.system.experiment import Experiment

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
    failed = _own_picture(read, reference, prompt or list(OWN_PROMPTS), out, device) if reference else False
    failed = failed or (not reference and _comparisons(read, out, device))
    typer.echo(f"{time.monotonic() - started:.0f} seconds")
    if failed:
        raise typer.Exit(1)


def _comparisons(read: Experiment, out: Path, device: str | None) -> bool:
    """Run them all, one after another; whether any variant failed."""
    with Loading("loading models"):
        from subjectgen.runner.evaluation.comparison import Progress, compare
        from subjectgen.runner.reports.page import write_page

    failed = False
    names = list(read.settings.shown())
    with Steps("sampling") as steps:
        begun: set[str] = set()

        def on_step(variant: str, batches: int, step: object) -> None:
            if variant not in begun:
                begun.add(variant)
                steps.expect(batches, variant)
            steps(step)  # type: ignore[arg-type]

        for name in names:
            progress = Progress(say=typer.echo, on_step=on_step)
            result = compare(read, name, out / name, device=device, progress=progress)
            failed = failed or any("failed" in found for found in result.variants.values())
    for path in write_page(out, [out / name for name in names], command=_command()):
        typer.echo(f"wrote {path}")
    return failed


def _own_picture(read: Experiment, pictures: list[Path], prompts: list[str], out: Path, device: str | None) -> bool:
    """Generate from the user's picture under all variants of the first comparison."""
    from subjectgen.runner.generation.files import read_references, write_images
    from subjectgen.runner.generation.pipeline import SubjectPipeline, vary
    from subjectgen.runner.generation.reference_files import ReferenceFiles
    from subjectgen.runner.generation.request import check_prompts
    from subjectgen.runner.generation.requests import Asked
    from subjectgen.runner.reports.own import write_own_page
    from subjectgen.runner.system.variants import variants

    check_prompts(prompts)
    files = ReferenceFiles(pictures=tuple(pictures))
    asked, _ = read_references([Asked(prompts=tuple(prompts), references=files, seeds=(0,))], strict=True)
    system, made = None, {}
    for name, changed in variants(read, next(iter(read.settings.shown()))):
        with Loading(f"{name}: loading"):
            system = vary(system, changed) if system else SubjectPipeline.from_experiment(changed, device=device).system
        with Steps(name) as steps:
            pipeline = SubjectPipeline(system)
            written = write_images(
                pipeline, asked, out / "own" / name, steps=None, batch_size=32, strict=True, begin=steps.expect,
                on_step=steps,
            )  # fmt: skip
        made[name] = written.paths
        for path in written.paths:
            typer.echo(f"wrote {path}")
    for path in write_own_page(out / "own", pictures, prompts, made, command=_command()):
        typer.echo(f"wrote {path}")
    return False


def _command() -> str:
    import shlex
    import sys

    return shlex.join(["subjectgen", *sys.argv[1:]])
