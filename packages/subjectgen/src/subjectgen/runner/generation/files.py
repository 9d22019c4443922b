"""From what is asked for to picture files: each written as it comes, none twice, none overwritten.

A file's name ends in a hash of everything that the image depends on, so a picture that is there already is the one that
was asked for, and a run that was killed goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from subjectgen.core import InputError, Reference, Sample, SubjectgenError
from subjectgen.core.naming import slug
from subjectgen.runner.generation.batches import Step
from subjectgen.runner.generation.pipeline import Finished, SubjectPipeline
from subjectgen.runner.generation.records import record
from subjectgen.runner.generation.reference_files import ReferenceFiles
from subjectgen.runner.generation.regions import placed
from subjectgen.runner.generation.request import Case, Request, check_read
from subjectgen.runner.generation.requests import Asked
from subjectgen.runner.generation.saving import save_image


@dataclass(frozen=True, kw_only=True, eq=False)
class Planned:
    """One image to come: its case, its file and what is kept beside it."""

    case: Case
    path: Path
    asked: Asked
    record: dict[str, Any]


@dataclass(kw_only=True)
class Written:
    """What became of a list of requests."""

    paths: list[Path] = field(default_factory=list)
    """Pictures, in the order of the requests; those that were there before too."""
    before: int = 0
    """How many were there before."""
    problems: list[str] = field(default_factory=list)
    """One message for each request or image that failed."""


def read_references(asked: Sequence[Asked], *, strict: bool) -> tuple[list[tuple[Asked, list[Reference]]], list[str]]:
    """Pictures of all requests, each file once; messages for those that cannot be read.

    Raises:
        InputError: With ``strict``, the first of them.
    """
    known: dict[ReferenceFiles, list[Reference]] = {}
    found, problems = [], []
    for one in asked:
        try:
            if one.references not in known:
                known[one.references] = one.references.read()
            found.append((one, known[one.references]))
        except SubjectgenError as error:
            if strict:
                raise
            problems.append(f"{one.place}: {error}")
    return found, problems


def write_images(
    pipeline: SubjectPipeline,
    asked: Sequence[tuple[Asked, list[Reference]]],
    out: Path,
    *,
    steps: int | None,
    batch_size: int,
    strict: bool,
    begin: Callable[[int], None] = lambda _: None,
    on_step: Callable[[Step], None] | None = None,
    on_image: Callable[[Path], None] = lambda _: None,
) -> Written:
    """Generate everything that is asked for.

    Args:
        pipeline: Ready to generate.
        asked: Requests with their pictures.
        out: Folder for the images.
        steps: Denoising steps; ``None``: the schedule's.
        batch_size: Images per pass.
        strict: The first problem ends it; otherwise it is reported, and the others go on.
        begin: Told the number of images to make.
        on_step: Called after each step.
        on_image: Called with each file that is written.

    Raises:
        SubjectgenError: With ``strict``.
    """
    result = Written()
    planned: list[Planned] = []
    number = 0
    for one, references in asked:
        try:
            planned += _planned(pipeline, one, references, out, number, steps, batch_size)
        except SubjectgenError as error:
            if strict:
                raise
            result.problems.append(f"{one.place}: {error}")
        number += len(one.prompts) * len(one.seeds)
    missing = [one for one in planned if not one.path.is_file()]
    result.before = len(planned) - len(missing)
    begin(len(missing))
    for done, problem in _made(pipeline, missing, steps=steps, batch_size=batch_size, strict=strict, on_step=on_step):
        if problem:
            result.problems.append(problem)
        else:
            on_image(done.path)
    result.paths = [one.path for one in planned if one.path.is_file()]
    return result


def _planned(
    pipeline: SubjectPipeline,
    asked: Asked,
    references: list[Reference],
    out: Path,
    number: int,
    steps: int | None,
    batch_size: int,
) -> list[Planned]:
    size = pipeline.size(*asked.size)
    found = asked.references.placed(_found_subjects(pipeline, asked.references, references), size)
    samples = [Sample(prompt=prompt, references=tuple(found)) for prompt in asked.prompts]
    check_read(pipeline.system, samples)
    cases = tuple(Case(sample=sample, seed=seed, size=size) for sample in samples for seed in asked.seeds)
    request = Request(cases=cases, steps=steps, batch_size=batch_size)
    phrases = asked.references.phrases("regions")
    if phrases:
        request = placed(pipeline, request, phrases)
    return [_one(pipeline, asked, request, index, out, number + index) for index in range(len(cases))]


def _one(pipeline: SubjectPipeline, asked: Asked, request: Request, index: int, out: Path, number: int) -> Planned:
    case = request.cases[index]
    kept = {**record(pipeline.system, request, index), **asked.references.record()}
    kept["reference_hashes"] = [_hash(reference) for reference in case.sample.references]
    short = _identity(pipeline.identity(), kept)
    start = asked.key or f"{number:04d}-{slug(case.sample.prompt)}"
    path = out / f"{start}-{case.seed}-{short}.png"
    return Planned(case=case, path=path, asked=asked, record={**kept, "identity": short})


def _identity(depends: dict[str, Any], kept: dict[str, Any]) -> str:
    """A short hash of everything that the image depends on."""
    own = {key: kept[key] for key in ("prompt", "reference_hashes", "seed", "height", "width", "steps")}
    return hashlib.sha256(json.dumps([depends, own], sort_keys=True, default=str).encode()).hexdigest()[:8]


def _hash(reference: Reference) -> str:
    found = hashlib.sha256(f"{reference.weight}".encode())
    for tensor in (reference.image, reference.subject_mask, reference.region_mask):
        if tensor is not None:
            found.update(f"{tuple(tensor.shape)}".encode())
            found.update((tensor * 255).round().byte().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _found_subjects(pipeline: SubjectPipeline, files: ReferenceFiles, loaded: list[Reference]) -> list[Reference]:
    """References with the subject masks that a finder was asked for."""
    found = list(loaded)
    for number, phrase in files.phrases("subject_masks").items():
        masks = pipeline.system.finder("subject masks").find(found[number].image, [phrase])
        found[number] = replace(found[number], subject_mask=masks[:1].cpu())
    return found


def _made(
    pipeline: SubjectPipeline,
    missing: Sequence[Planned],
    *,
    steps: int | None,
    batch_size: int,
    strict: bool,
    on_step: Callable[[Step], None] | None,
) -> Iterator[tuple[Planned, str]]:
    """Each image as it is written, or with why it could not be; after a failure the others are made one by one."""
    done: set[int] = set()
    try:
        for number, image in _streamed(pipeline, missing, steps, batch_size, on_step):
            _save(missing[number], image)
            done.add(number)
            yield missing[number], ""
    except InputError:
        if strict:
            raise
        for number, one in enumerate(missing):
            if number not in done:
                yield one, _alone(pipeline, one, steps, on_step)


def _alone(pipeline: SubjectPipeline, one: Planned, steps: int | None, on_step: Callable[[Step], None] | None) -> str:
    try:
        for _, image in _streamed(pipeline, [one], steps, 1, on_step):
            _save(one, image)
    except InputError as error:
        return f"{one.asked.place}: prompt {one.case.sample.prompt!r}: {error}"
    return ""


def _streamed(
    pipeline: SubjectPipeline,
    planned: Sequence[Planned],
    steps: int | None,
    batch_size: int,
    on_step: Callable[[Step], None] | None,
) -> Iterator[tuple[int, Finished]]:
    if planned:
        request = Request(cases=tuple(one.case for one in planned), steps=steps, batch_size=batch_size)
        for image in pipeline.stream(request, on_step=on_step):
            yield image.case, image


def _save(planned: Planned, image: Finished) -> None:
    explained = {key: value for key, value in image.record.items() if key == "explained"}
    save_image(image.tensor, planned.path, {**planned.record, **explained})
