"""``subjectgen generate``: references and prompts in, PNG files with their settings out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subjectgen.core import InputError
from subjectgen.runner.cli.options import FORMS, Device, Overrides, Prompts, References, Seeds, TrainedPath
from subjectgen.runner.cli.progress import Loading, Steps

if TYPE_CHECKING:
    from subjectgen.runner.generation.batches import Step
    from subjectgen.runner.generation.requests import Asked


def generate(
    experiment: TrainedPath,
    prompt: Prompts = [],  # noqa: B006
    reference: References = [],  # noqa: B006
    subject_mask: Annotated[
        list[str], typer.Option(help=f"Subject in its reference: {FORMS} In order.", metavar="MASK")
    ] = [],  # noqa: B006
    region: Annotated[list[str], typer.Option(help=f"Subject in the result: {FORMS} In order.", metavar="MASK")] = [],  # noqa: B006
    weight: Annotated[list[float], typer.Option(help="Strength of each reference, in order.", metavar="NUMBER")] = [],  # noqa: B006
    seed: Seeds = [0],  # noqa: B006
    requests: Annotated[
        Path | None,
        typer.Option(
            help="YAML or JSON lines: prompts, each with its own references, seeds and size. Goes on after a kill.",
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the images.", metavar="FOLDER")] = Path("out"),
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; by default the schedule's.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; by default the experiment's.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; by default the experiment's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 32,
    preview: Annotated[
        Path | None, typer.Option(help="Picture file that shows the images as they come.", metavar="FILE")
    ] = None,
    preview_every: Annotated[int, typer.Option(min=1, help="Steps between previews.")] = 5,
    override: Overrides = [],  # noqa: B006
    device: Device = None,
) -> None:
    """Generate images from prompts and reference pictures; none is overwritten, and none is made twice."""
    with Loading("loading"):
        from subjectgen.core.text import valid_text
        from subjectgen.runner.generation.reference_files import ReferenceFiles
        from subjectgen.runner.generation.request import check_prompts
        from subjectgen.runner.generation.requests import Asked, read_requests

    strict = requests is None
    if requests is not None:
        if prompt or reference:
            raise InputError("--requests: the file names prompts and references; expected no --prompt and --reference")
        asked, problems = read_requests(requests)
    else:
        prompts = tuple(valid_text(one, "prompt") for one in prompt)
        check_prompts(prompts)
        files = ReferenceFiles(
            pictures=tuple(reference), subject_masks=tuple(subject_mask), regions=tuple(region), weights=tuple(weight)
        )
        asked, problems = [Asked(prompts=prompts, references=files, seeds=tuple(seed), size=(height, width))], []
    problems += _run(
        experiment,
        asked,
        out,
        steps=steps,
        batch_size=batch_size,
        strict=strict,
        preview=preview,
        preview_every=preview_every,
        override=override,
        device=device,
    )
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


def _run(
    experiment: str,
    asked: list[Asked],
    out: Path,
    *,
    steps: int | None,
    batch_size: int,
    strict: bool,
    preview: Path | None,
    preview_every: int,
    override: Iterable[str],
    device: str | None,
) -> list[str]:
    """Everything that was asked for; returns messages about what failed."""
    from subjectgen.core.disks import check_writable
    from subjectgen.runner.cli.experiments import find_experiment
    from subjectgen.runner.cli.memory_advice import explained_memory
    from subjectgen.runner.generation.files import read_references, write_images
    from subjectgen.runner.generation.pipeline import open_pipeline
    from subjectgen.runner.generation.preview import Preview, check_preview

    check_writable(out)  # these before models load, so that a mistake is told at once
    if preview is not None:
        check_preview(preview)
    read, problems = read_references(asked, strict=strict)
    with Loading("loading models"):
        pipeline = open_pipeline(find_experiment(experiment), overrides=override, device=device)
    _warn_of_words(pipeline.unknown_words, [prompt for one in asked for prompt in one.prompts])
    made = explained_memory(pipeline.system.experiment, device=pipeline.system.device, batch_size=batch_size)
    with Steps("sampling") as progress, made:
        seen = None if preview is None else Preview(pipeline, preview, every=preview_every)

        def tell(step: Step) -> None:
            progress(step)
            if seen is not None:
                seen(step)

        result = write_images(
            pipeline,
            read,
            out,
            steps=steps,
            batch_size=batch_size,
            strict=strict,
            begin=lambda images: progress.expect(-(-images // batch_size)),
            on_step=tell,
        )
    for path in result.paths:
        typer.echo(str(path))
    if result.before:
        typer.echo(f"{result.before} of {len(result.paths)} images were there before", err=True)
    return [*problems, *result.problems]


def _warn_of_words(unknown: object, prompts: Iterable[str]) -> None:
    """Words that a small vocabulary lacks are read as one and the same unknown word."""
    assert callable(unknown)
    words = dict.fromkeys(word for prompt in prompts for word in unknown(prompt))
    if words:
        typer.echo(f"warning: words this model does not know: {', '.join(words)}", err=True)
