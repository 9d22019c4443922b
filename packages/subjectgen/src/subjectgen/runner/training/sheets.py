"""Pictures of the first rows of a phase while it is trained: references, target, and what is generated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from subjectgen.core import InputError, Sample
from subjectgen.core.files import atomic_write
from subjectgen.core.images import to_pil
from subjectgen.runner.generation.batches import batches
from subjectgen.runner.generation.records import record
from subjectgen.runner.generation.request import Case, Request
from subjectgen.runner.generation.saving import save_image
from subjectgen.runner.system.settings import TrainingSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.training.observers import Moment
from subjectgen.runner.training.phases import Phase
from subjectgen.runner.training.positions import derived_seed
from subjectgen.runner.training.rows import Rows
from subjectgen.runner.training.run_directory import SAMPLES, RunDirectory

CELL, HEADER, CAPTION, GAP = 256, 20, 18, 4
"""Pixels: height of a picture, of the columns' names, of a prompt; between pictures."""
OF_THE_RUN = ("settings", "trained", "plugins")
"""What the run's folder says already, and what would differ after going on: its paths."""


class Sheets:
    """Generates at intervals, with the experiment's schedule, and writes ``samples/``.

    Always the same samples with the same seeds, so that sheets of different steps can be compared.
    """

    name = "the sample sheets (training.samples_every)"

    def __init__(self, settings: TrainingSettings, *, seed: int, run: RunDirectory) -> None:
        """``seed``: the experiment's."""
        self.every = settings.samples_every or 0
        self._settings, self._seed, self._run = settings, seed, run

    def __call__(self, moment: Moment) -> None:
        """One sheet, and its pictures one by one."""
        request = self._request(moment.phase)
        images = generated(moment.system, request)
        folder = self._run.folder / SAMPLES / f"step-{moment.step:08d}"
        if not self._run.writes:
            return
        for number, image in enumerate(images):
            facts = {
                key: value for key, value in record(moment.system, request, number).items() if key not in OF_THE_RUN
            }
            save_image(image, folder / f"{number + 1:02d}.png", {**facts, "training_step": moment.step})
        with atomic_write(folder.with_suffix(".png")) as unfinished:  # last: where it is, all pictures are
            sheet([case.sample for case in request.cases], images).save(unfinished, format="PNG")

    def _request(self, phase: Phase) -> Request:
        """The first rows that can be read, each in the size of its target where targets differ."""
        rows = Rows(phase.data.datasets, phase.data.order, seed=self._seed, phase=phase.number)
        cases = []
        for position in range(self._settings.samples_rows):
            sample = rows[position].sample
            if sample is not None:
                height, width = (0, 0) if sample.target is None else sample.target.shape[1:]
                cases.append(
                    Case(
                        sample=sample,
                        seed=derived_seed(self._seed, "sample", phase.number, position),
                        size=(height, width) if self._settings.buckets and height else None,
                    )
                )
        if not cases:
            raise InputError(f"none of the first {self._settings.samples_rows} rows can be read")
        return Request(cases=tuple(cases), batch_size=self._settings.micro_batch or len(cases))


def generated(system: System, request: Request) -> list[Float[Tensor, "3 _ _"]]:
    """Images of a request in its order, RGB in [0, 1], from a system in evaluation mode."""
    found: dict[int, Tensor] = {}
    for batch in batches(system, request):
        found |= dict(zip(batch.cases, batch.images, strict=True))
    return [found[number] for number in range(len(request.cases))]


def sheet(samples: Sequence[Sample], images: Sequence[Float[Tensor, "3 _ _"]]) -> Image.Image:
    """One row per sample: its references, its target, what was generated, and the prompt below."""
    count = max(len(sample.references) for sample in samples)
    columns = [*(["reference"] * count), "target", "generated"]
    step = CELL + GAP
    picture = Image.new("RGB", (len(columns) * step, HEADER + len(samples) * (step + CAPTION)), "white")
    draw = ImageDraw.Draw(picture)
    for column, name in enumerate(columns):
        draw.text((column * step + 4, 4), name, fill="black")
    for row, (sample, image) in enumerate(zip(samples, images, strict=True)):
        top = HEADER + row * (step + CAPTION)
        shown: list[Tensor | None] = [reference.image for reference in sample.references]
        shown += [None] * (count - len(shown)) + [sample.target, image]
        for column, one in enumerate(shown):
            if one is not None:
                picture.paste(_fitted(one), (column * step, top))
        draw.text((4, top + CELL + 2), _short(sample.prompt, draw, picture.width - 8), fill="black")
    return picture


def _fitted(image: Float[Tensor, "3 _ _"]) -> Image.Image:
    """The whole picture, as large as a cell holds."""
    picture = to_pil(image)
    scale = CELL / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _short(text: str, draw: ImageDraw.ImageDraw, width: int) -> str:
    """One line of at most so many pixels."""
    line = " ".join(text.split())
    if draw.textlength(line) <= width:
        return line
    while line and draw.textlength(f"{line} ...") > width:
        line = line[:-1]
    return f"{line} ..."


def sheets(folder: Path) -> list[Path]:
    """Sheets of a run, oldest first."""
    return sorted((folder / SAMPLES).glob("step-*.png"))
