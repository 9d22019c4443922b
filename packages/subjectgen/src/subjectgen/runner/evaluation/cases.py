"""The cases of an evaluation: every sample of a data set with its seed; images that are not there yet are made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from subjectgen.core import KEY, Dataset, InputError, Reference, Sample
from subjectgen.core.files import atomic_write
from subjectgen.core.images import to_pil
from subjectgen.runner.evaluation.image_store import ImageStore
from subjectgen.runner.generation.batches import Step
from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Case, Request
from subjectgen.runner.system.system import System

CHUNK = 8
"""Batches whose samples are in memory at once."""


class Cases(Sequence[Sample]):
    """Samples by number, read when they are asked for; the number is also the seed."""

    def __init__(self, dataset: Dataset) -> None:
        """See that keys can name files.

        Raises:
            InputError: No samples, a key that cannot, or one that comes twice.
        """
        self._dataset = dataset
        if not len(dataset):
            raise InputError(f"data set {type(dataset).__name__}: holds no samples")
        self.keys = [dataset[number].key for number in range(len(dataset))]
        for number, key in enumerate(self.keys):
            if not KEY.fullmatch(key):
                raise InputError(
                    f"data set {type(dataset).__name__}: sample {number} has the key {key!r}; expected letters, digits "
                    "and . _ -, at most 120 (docs/how-to/upgrade.md)"
                )
        if len(set(self.keys)) < len(self.keys):
            twice = next(key for key in self.keys if self.keys.count(key) > 1)
            raise InputError(f"data set {type(dataset).__name__}: two samples have the key {twice!r}")

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        return self._dataset[number]

    def chunks(self, numbers: Sequence[int], batch_size: int) -> Iterator[Sequence[int]]:
        """Numbers in pieces whose samples fit into memory together."""
        size = CHUNK * batch_size
        return (numbers[start : start + size] for start in range(0, len(numbers), size))

    def generate(
        self,
        system: System,
        store: ImageStore,
        batch_size: int,
        on_step: Callable[[int, Step], None],
        *,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Make the images that the store lacks, of all samples or of some; each is written as it comes."""
        asked = range(len(self)) if numbers is None else numbers
        missing = [number for number in asked if (self.keys[number], number) not in store]
        pipeline, left = SubjectPipeline(system), -(-len(missing) // batch_size)
        for chunk in self.chunks(missing, batch_size):
            cases = tuple(Case(sample=self[number], seed=number) for number in chunk)
            request = Request(cases=cases, batch_size=batch_size)
            for image in pipeline.stream(request, on_step=lambda step: on_step(left, step)):
                store.write(self.keys[chunk[image.case]], chunk[image.case], image.tensor)

    def write_references(self, folder: Path, *, numbers: Sequence[int] | None = None) -> None:
        """Keep every reference picture, of all samples or of some, once, for reports."""
        for number in range(len(self)) if numbers is None else numbers:
            for reference in self[number].references:
                path = folder / reference_file(reference)
                if not path.is_file():
                    with atomic_write(path) as unfinished:
                        to_pil(reference.image).save(unfinished, format="PNG")


def reference_file(reference: Reference) -> str:
    """Where a reference picture lies in a comparison's folder: its name follows from its content."""
    content = (reference.image * 255).round().byte().cpu().numpy().tobytes()
    shape = "x".join(map(str, reference.image.shape[-2:]))
    return f"references/{shape}-{hashlib.sha256(content).hexdigest()[:12]}.png"
