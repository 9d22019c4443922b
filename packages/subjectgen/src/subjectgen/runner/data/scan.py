"""Reading every sample of a data set, in order, whatever happens: counts, sizes, faults and a few pictures."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from subjectgen.core import KEY, Dataset, HasSizes, InputError, Sample, to_pil
from subjectgen.core.part import Part
from subjectgen.runner.data.faults import Faults

PICTURES = 24
"""Samples that are shown."""
SIDE = 192
"""Pixels of the longer side of a picture that is shown."""
OnSample = Callable[[int, int], None]
"""Told after each sample: how many were read, and of how many."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sample for the page."""

    key: str
    prompt: str
    pictures: Sequence[tuple[str, Image.Image]]
    """What it is, and a small copy."""


@dataclass
class Scan:
    """What was found."""

    part: Part
    samples: int
    """That the data set has."""
    read: int = 0
    faults: Faults = field(default_factory=Faults)
    notes: list[str] = field(default_factory=list)
    """What the data set said when it was opened."""
    references: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    prompts: list[int] = field(default_factory=list)
    """Letters of each."""
    without_target: int = 0
    masks: int = 0
    shown: list[Shown] = field(default_factory=list)

    def report(self, batch_size: int) -> dict[str, Any]:
        """Everything as plain values."""
        tails = {size: count % batch_size for size, count in self.sizes.items()}
        return {
            "dataset": self.part.describe(),
            "samples": self.samples,
            "read": self.read,
            "faults": self.faults.total,
            "faults_by_reason": self.faults.describe(),
            "notes": self.notes,
            "references": {str(number): count for number, count in sorted(self.references.items())},
            "subject_masks": self.masks,
            "without_target": self.without_target,
            "batch_size": batch_size,
            "sizes": [
                {"height": size[0], "width": size[1], "samples": count, "tail": tails[size]}
                for size, count in self.sizes.most_common()
            ],
            "tail": sum(tails.values()),
            "prompt_letters": _spread(self.prompts),
        }


def scan(part: Part, *, limit: int | None = None, on_sample: OnSample = lambda _done, _of: None) -> Scan:
    """Open a data set and read its samples from the first; one that cannot be read is counted and passed over.

    Args:
        part: The data set.
        limit: Read no more than so many.
        on_sample: Told how far it is.

    Raises:
        SubjectgenError: The data set cannot be opened at all, or holds nothing.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dataset: Dataset = part.build()
    if not len(dataset):
        raise InputError(f"{part.place}{part.name} holds no samples")
    found = Scan(part, len(dataset), notes=[str(one.message) for one in said])
    _add_left_out(found, dataset)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    chosen = {index * count // min(PICTURES, count) for index in range(min(PICTURES, count))}
    keys: dict[str, int] = {}
    for index in range(count):
        _look(found, dataset, index, keys, show=index in chosen, sizes=limit is None)
        on_sample(index + 1, count)
    return found


def _add_left_out(found: Scan, dataset: Dataset) -> None:
    """What the index holds and the data set left out, where it counts that (``left_out``, as ours do)."""
    left_out = getattr(dataset, "left_out", None)
    counts, examples = getattr(left_out, "counts", {}), getattr(left_out, "examples", {})
    if isinstance(counts, Mapping) and isinstance(examples, Mapping):
        for reason, count in counts.items():
            known = [*examples.get(reason, []), ""]
            for number in range(count):
                found.faults.add(f"index: {reason}", known[min(number, len(known) - 1)])


def _look(found: Scan, dataset: Dataset, index: int, keys: dict[str, int], *, show: bool, sizes: bool) -> None:
    """``sizes``: compare the target's with what the data set says, which may have to measure all of its files."""
    place = f"sample {index}"
    try:
        sample = dataset[index]
        _count(found, sample)
        if show:
            found.shown.append(_shown(sample))
    except MemoryError:
        raise
    except Exception as error:  # a data set may raise anything, and the others shall be read all the same
        found.faults.add_error(place, error)
        return
    found.read += 1
    place = f"{place} ({sample.key})"
    before = keys.setdefault(sample.key.lower(), index)
    if before != index:
        found.faults.add("key is used twice", f"{place}: its key is that of sample {before}")
    if not KEY.fullmatch(sample.key):
        found.faults.add("key is no name", f"{place}: expected letters, digits and . _ -, at most 120")
    if not sample.prompt.strip():
        found.faults.add("prompt is empty", place)
    if sizes:
        _check_size(found, dataset, sample, index, place)


def _check_size(found: Scan, dataset: Dataset, sample: Sample, index: int, place: str) -> None:
    if sample.target is None or not isinstance(dataset, HasSizes):
        return
    size, told = tuple(sample.target.shape[1:]), tuple(dataset.sizes[index])
    if size != told:
        found.faults.add("target of another size than said", f"{place}: {size}; its data set says {told}")


def _count(found: Scan, sample: Sample) -> None:
    size = None if sample.target is None else (int(sample.target.shape[1]), int(sample.target.shape[2]))
    found.references[len(sample.references)] += 1
    found.masks += sum(one.subject_mask is not None for one in sample.references)
    found.prompts.append(len(sample.prompt))
    if size is None:
        found.without_target += 1
    else:
        found.sizes[size] += 1


def _shown(sample: Sample) -> Shown:
    pictures = [(one.name or f"reference {number}", one.image) for number, one in enumerate(sample.references, 1)]
    pictures += [] if sample.target is None else [("target", sample.target)]
    small = []
    for what, image in pictures:
        picture = to_pil(image)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        small.append((what, picture))
    return Shown(key=sample.key, prompt=sample.prompt, pictures=small)


def _spread(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    cuts = statistics.quantiles(values, n=20, method="inclusive") if len(values) > 1 else [values[0]] * 19
    return {"shortest": min(values), "median": statistics.median(values), "95 %": cuts[18], "longest": max(values)}
