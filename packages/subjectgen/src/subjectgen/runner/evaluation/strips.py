"""Strips: a few samples of a comparison under several values of a setting, with the same seeds.

Images are written as they come; what is there of the same settings is not made again. Nothing is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from subjectgen.core import InputError, SubjectgenError
from subjectgen.core.guard import in_one_line
from subjectgen.core.json_files import write_json
from subjectgen.runner.evaluation.cases import Cases, reference_file
from subjectgen.runner.evaluation.image_store import ImageStore, depends
from subjectgen.runner.evaluation.progress import Progress
from subjectgen.runner.evaluation.systems import Systems
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.settings import ComparisonSettings, StripSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.system.variants import strip

STRIP = "strip.json"


def run_strip(experiment: Experiment, name: str, folder: Path, *, systems: Systems, progress: Progress) -> bool:
    """Generate the strip's samples under every value; ``strip.json`` says what came of it.

    Args:
        experiment: With a strip of this name.
        name: Of the strip.
        folder: Where to; may hold what an earlier call made of the same settings.
        systems: Builds what runs, where it shall run.
        progress: Who is told.

    Returns:
        Whether every value gave its pictures; one that fails is reported, and the others go on.

    Raises:
        SubjectgenError: What concerns all values: the data set, a sample that it does not have.
    """
    changed = strip(experiment, name)
    with progress.during(f"{name}: data set"):
        made = _opened(experiment, name, folder)
    found: list[dict[str, Any]] = []
    for value, one in changed.items():
        told = {"value": value, "label": made.settings.label.replace("{value}", value)}
        try:
            with progress.during(f"{name} {value}: loading"):
                system = systems.of(one)
            found.append(told | {"images": made.pictures(system, value, progress)})
        except Exception as error:  # whatever it is, the other values go on
            said = str(error) if isinstance(error, SubjectgenError) else in_one_line(error)
            found.append(told | {"failed": said})
            progress.say(f"{name} {value}: failed: {said}")
        made.describe(found)
    return not any("failed" in one for one in found)


@dataclass(frozen=True, kw_only=True)
class _Strip:
    """A strip and its folder."""

    name: str
    folder: Path
    settings: StripSettings
    comparison: ComparisonSettings
    cases: Cases

    def pictures(self, system: System, value: str, progress: Progress) -> list[str]:
        """Make what lacks under one value; returns the files of all, in the order of the samples."""
        store = ImageStore(self.folder / value, depends(system, self.comparison.dataset, self.cases.keys))
        on_step = partial(progress.on_step, f"{self.name} {value}")
        numbers = self.settings.samples
        self.cases.generate(system, store, self.comparison.batch_size, on_step, numbers=numbers)
        paths = [store.path(self.cases.keys[number], number) for number in numbers]
        return [path.relative_to(self.folder).as_posix() for path in paths]

    def describe(self, values: list[dict[str, Any]]) -> None:
        """Write what a report needs beside images."""
        samples = [(number, self.cases[number]) for number in self.settings.samples]
        told = [
            {
                "key": sample.key,
                "seed": number,
                "prompt": sample.prompt,
                "references": [reference_file(reference) for reference in sample.references],
            }
            for number, sample in samples
        ]
        facts = {"name": self.name, "comparison": self.settings.comparison, "samples": told, "values": values}
        write_json(self.folder / STRIP, facts)


def _opened(experiment: Experiment, name: str, folder: Path) -> _Strip:
    """Its samples, and their references on disk.

    Raises:
        InputError: A sample that the data set does not have.
    """
    settings = experiment.settings.shown_strips()[name]
    cases = Cases(experiment.parts.comparisons[settings.comparison].dataset.build())
    beyond = [number for number in settings.samples if number >= len(cases)]
    if beyond:
        raise InputError(
            f"strips.{name}.samples: got {beyond[0]}; expected numbers of samples of comparison "
            f"{settings.comparison!r}, 0 to {len(cases) - 1}"
        )
    cases.write_references(folder, numbers=settings.samples)
    comparison = experiment.settings.shown()[settings.comparison]
    return _Strip(name=name, folder=folder, settings=settings, comparison=comparison, cases=cases)
