"""``subjectgen generate``: references and prompts in, PNG files with their settings out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from torch import Tensor

from subjectgen.core import InputError, Reference, Sample
from subjectgen.core.files import atomic_write
from subjectgen.core.images import to_pil
from subjectgen.runner.pipeline import SubjectPipeline, check_prompts
from subjectgen.runner.references import ReferenceFiles
from subjectgen.runner.sampling import Step
from subjectgen.runner.saving import save_image

PREVIEWS = (".png", ".jpg", ".jpeg", ".webp")
PREVIEWED = 4
"""Images of a batch in a preview."""


def generate_files(
    experiment: Path,
    *,
    prompts: Sequence[str],
    references: ReferenceFiles,
    seeds: Sequence[int],
    out: Path,
    steps: int | None = None,
    size: tuple[int | None, int | None] = (None, None),
    batch_size: int = 32,
    overrides: Iterable[str] = (),
    device: str | None = None,
    preview: Path | None = None,
    preview_every: int = 5,
) -> list[Path]:
    """Generate one PNG per prompt and seed; nothing but the preview is written unless all of it was generated.

    Raises:
        InputError: No prompt, a reference that is no image, a preview that is no picture, or not enough memory.
    """
    check_prompts(prompts)  # these before models load, so that a mistake is told at once
    check_folder(out)
    if preview is not None:
        check_preview(preview)
    loaded = references.read()
    pipeline = open_pipeline(experiment, overrides=overrides, device=device)
    loaded = references.placed(_found_subjects(pipeline, loaded, references), pipeline.size(*size))
    samples = [Sample(prompt=prompt, references=tuple(loaded)) for prompt in prompts for _ in seeds]
    all_seeds = list(seeds) * len(prompts)
    phrases = references.phrases("regions")
    if phrases:
        samples = pipeline.placed(
            samples, all_seeds, phrases, height=size[0], width=size[1], steps=steps, batch_size=batch_size
        )
    with step_progress("sampling") as progress:
        progress.expect(-(-len(samples) // batch_size))
        on_step: Callable[[Step], None] = progress
        if preview is not None:
            on_step = _both(progress, Preview(pipeline, preview, every=preview_every))
        result = pipeline.generate(
            samples, all_seeds, height=size[0], width=size[1], steps=steps, batch_size=batch_size, on_step=on_step
        )
    paths = []
    for number, (image, record) in enumerate(zip(result.images, result.records, strict=True)):
        path = out / f"{number:04d}-{slug(record['prompt'])}-{record['seed']}.png"
        save_image(image, path, {**record, **references.record()})
        paths.append(path)
    return paths


def _both(first: Callable[[Step], None], second: Callable[[Step], None]) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        first(step)
        second(step)

    return tell


def _found_subjects(pipeline: SubjectPipeline, loaded: list[Reference], references: ReferenceFiles) -> list[Reference]:
    """References with the subject masks that a finder was asked for."""
    found = list(loaded)
    for number, phrase in references.phrases("subject_masks").items():
        masks = pipeline.system.finder("subject masks").find(found[number].image, [phrase])
        found[number] = replace(found[number], subject_mask=masks[:1].cpu())
    return found


def open_pipeline(experiment: Path, *, overrides: Iterable[str] = (), device: str | None = None) -> SubjectPipeline:
    """Open an experiment file or a run directory."""
    if experiment.is_dir():
        return SubjectPipeline.from_pretrained(experiment, overrides=overrides, device=device)
    return SubjectPipeline.from_experiment(experiment, overrides=overrides, device=device)


def check_folder(out: Path, *, option: str = "--out") -> None:
    """Refuse a file where a folder is to be written."""
    taken = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if taken is not None:
        raise InputError(f"{option}: {taken} is a file; expected a folder")


def check_preview(path: Path) -> None:
    """Refuse a preview that cannot be written."""
    if path.suffix.lower() not in PREVIEWS:
        raise InputError(f"--preview: got {path}; expected a file that ends in {', '.join(PREVIEWS)}")
    if path.is_dir():
        raise InputError(f"--preview: {path} is a folder; expected a file")
    check_folder(path.parent, option="--preview")


class Preview:
    """Writes what a batch will look like to one file, every few steps: the first images, side by side."""

    def __init__(self, pipeline: SubjectPipeline, path: Path, *, every: int) -> None:
        self._pipeline, self._path, self._every = pipeline, path, every
        self._failed = False

    def __call__(self, step: Step) -> None:
        """Decode the image as the step's velocity sees it; the file is replaced in one step.

        One that cannot be made or written is the last: a warning says so, and the images still come.
        """
        if self._failed or ((step.index + 1) % self._every and step.index + 1 < step.steps):
            return
        try:
            self._write(step.estimate[:PREVIEWED])
        except Exception as error:
            self._failed = True
            warnings.warn(f"--preview: {self._path} cannot be written: {error}; no more previews", stacklevel=2)

    def _write(self, latents: Float[Tensor, "b c h w"]) -> None:
        images = self._pipeline.system.autoencoder.decode(latents)
        with atomic_write(self._path) as path:
            to_pil(torch.cat(list(images), dim=-1).cpu()).save(path)


def slug(text: str, limit: int = 40) -> str:
    """A prompt as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].rstrip("-") or "image"


class step_progress:  # noqa: N801  # reads as a statement: with step_progress("sampling") as on_step
    """A progress bar that names the stage of each step; also the callback that moves it."""

    def __init__(self, label: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[stage]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._label, self._batches = label, 1
        self._task: TaskID | None = None

    def expect(self, batches: int) -> None:
        """How many batches will be sampled."""
        self._batches = batches

    def __enter__(self) -> step_progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, step: Step) -> None:
        """Advance by one step."""
        if self._task is None:
            self._task = self._progress.add_task(self._label, total=step.steps * self._batches, stage="")
        self._progress.update(self._task, advance=1, stage=f"t = {step.timestep:.2f} {step.stage}")
