"""How much room caches take, said before it is taken, and refused where there is less."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from subjectgen.core import Augments, Dataset, InputError, Sample, Visibility
from subjectgen.runner.generation.passes import row_pass
from subjectgen.runner.system.settings import PhaseSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.training.caches import Caches
from subjectgen.runner.training.phases import PhaseData, phase_schedule
from subjectgen.runner.training.rows import ATTEMPTS

_DRAWS = 512
"""Timesteps and dropouts that are drawn to know what branches see of a sample."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one cache will hold."""

    samples: int
    bytes: int

    def __add__(self, other: Need) -> Need:
        """Both."""
        return Need(samples=self.samples + other.samples, bytes=self.bytes + other.bytes)


def check_room(caches: Caches, data: Sequence[PhaseData]) -> list[str]:
    """Measure one sample of each data set, and see whether there is room for all.

    Returns:
        A line for each cache, with bytes per sample and samples.

    Raises:
        InputError: There is less room than is needed; says how much, where and the way out.
    """
    if not caches.stores:
        return []
    stretches = [list(range(len(data)))] if caches.folder is not None else list(_stretches(data))
    needs = [_needs(caches, data, phases) for phases in stretches]
    largest = max(needs, key=lambda need: sum(one.bytes for one in need.values()))
    missing = sum(max(need.bytes - caches.stores[name].held_bytes(), 0) for name, need in largest.items())
    where, free = _room(caches.folder)
    if free is not None and missing > free:
        raise InputError(
            f"training.cache: needs {_said(missing)} more in {where}, which has {_said(free)} free; expected more "
            "room: training.cache.features=false, or another training.cache.folder (null: the CPU's memory)"
        )
    room = "" if free is None else f", which has {_said(free)} free"
    return [
        f"cache of {name}: about {_said(need.bytes / max(need.samples, 1))} per sample x {need.samples} samples = "
        f"{_said(need.bytes)} in {where}{room}"
        for name, need in largest.items()
    ]


def _stretches(data: Sequence[PhaseData]) -> Iterator[list[int]]:
    """Phases one after another with the same data sets, over which memory keeps what it holds."""
    stretch: list[int] = []
    for number, one in enumerate(data):
        if stretch and data[number - 1].datasets != one.datasets:
            yield stretch
            stretch = []
        stretch.append(number)
    yield stretch


def _needs(caches: Caches, data: Sequence[PhaseData], phases: Sequence[int]) -> dict[str, Need]:
    """Of each cache in some of the phases; a sample that two of them read counts once."""
    settings = caches.system.experiment.settings.training
    assert settings is not None  # or there would be no data
    rows: dict[int, float] = {}
    datasets: dict[int, Dataset] = {}
    for phase in phases:
        sources = data[phase].order.sources
        for dataset, source in zip(data[phase].datasets, sources, strict=True):
            share = source.weight / sum(one.weight for one in sources)
            datasets[id(dataset)] = dataset
            drawn = settings.phases[phase].steps * settings.batch_size * share
            rows[id(dataset)] = rows.get(id(dataset), 0.0) + drawn
    found = {name: Need(samples=0, bytes=0) for name in caches.stores}
    for number, dataset in datasets.items():
        samples = math.ceil(rows[number])
        samples = samples if isinstance(dataset, Augments) else min(samples, len(dataset))
        sample = _first(dataset)
        if sample is not None:
            using = [settings.phases[p] for p in phases if dataset in data[p].datasets]
            for name, size in _sizes(caches, sample, using).items():
                found[name] += Need(samples=samples, bytes=samples * size)
    return found


def _sizes(caches: Caches, sample: Sample, phases: Sequence[PhaseSettings]) -> dict[str, int]:
    """Bytes of one sample in each cache: every branch, once for each of the ways in which it may see it."""
    sizes = {}
    if caches.targets is not None:
        shape = () if sample.target is None else caches.system.latent_shape(*sample.target.shape[1:])
        sizes["targets"] = 4 * math.prod(shape) if shape else 0
    for name, encoder in caches.encoders.items():
        seen = {one for phase in phases for branch, one in _seen(caches.system, phase, sample) if branch == name}
        sizes[f"branches.{name}.encoder"] = sum(encoder.bytes_of(sample.seen(one)) for one in seen)
    return sizes


def _seen(system: System, phase: PhaseSettings, sample: Sample) -> set[tuple[str, Visibility]]:
    """What each branch may see of a sample in a phase."""
    schedule, generator = phase_schedule(system, phase), torch.Generator().manual_seed(0)
    times = schedule.sample_timesteps(_DRAWS, image_tokens=1024, generator=generator).tolist()
    hidden = schedule.sample_dropout(_DRAWS, generator=generator)
    passes = (
        row_pass(system.branches, sample, schedule.active(t).restricted(hide))
        for t, hide in zip(times, hidden, strict=True)
    )
    return {(one.branch, one.seen) for found in passes for one in found}


def _first(dataset: Dataset) -> Sample | None:
    """The first sample that can be read."""
    for index in range(min(len(dataset), ATTEMPTS)):
        try:
            return dataset[index]
        except Exception:  # training passes over it and says so
            continue
    return None


def _room(folder: Path | None) -> tuple[str, int | None]:
    """Where caches are, and the bytes that are free there for this process; ``None`` where the system does not say."""
    if folder is None:
        free = available_memory()
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each process keeps its own
        return "the CPU's memory", None if free is None else free // beside
    return str(folder), shutil.disk_usage(folder).free


def available_memory(file: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of memory that new work may take, as Linux says; ``None`` elsewhere."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found[1]) * 1024


def _said(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"
