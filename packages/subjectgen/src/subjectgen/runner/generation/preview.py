"""What a batch will look like, in one file that is replaced every few steps."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError
from subjectgen.core.disks import check_writable
from subjectgen.core.files import atomic_write
from subjectgen.core.images import to_pil
from subjectgen.runner.generation.batches import Step
from subjectgen.runner.generation.pipeline import SubjectPipeline, decoded

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SHOWN = 4
"""Images of a batch in a preview."""


def check_preview(path: Path) -> None:
    """Refuse a preview that cannot be written.

    Raises:
        InputError: Not a picture's name, a folder, or a place that cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--preview: got {path}; expected a file that ends in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise InputError(f"--preview: {path} is a folder; expected a file")
    check_writable(path.parent, what="--preview")


class Preview:
    """Writes the first images of a batch, side by side."""

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
            self._write(step.estimate[:SHOWN])
        except Exception as error:
            self._failed = True
            warnings.warn(f"--preview: {self._path} cannot be written: {error}; no more previews", stacklevel=2)

    def _write(self, latents: Float[Tensor, "b c h w"]) -> None:
        with atomic_write(self._path) as path:
            to_pil(torch.cat(list(decoded(self._pipeline.system, latents)), dim=-1)).save(path)
