"""A file of requests: many subjects, many prompts, each with references, seeds and size of its own.

YAML, a list of mappings, or JSON lines, one mapping a line::

    - {prompt: "the toy in the snow", references: [toy.png], seeds: [0, 1]}
    - {prompt: ["a box at night", "a box by the sea"], references: [{image: box.png, weight: 0.8}], width: 96}

Paths are relative to the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from subjectgen.core import Config, ConfigError, InputError, SubjectgenError
from subjectgen.core.validation import locate, shown, validate
from subjectgen.core.yaml_reader import read_yaml
from subjectgen.runner.generation.reference_files import FIND, ReferenceFiles
from subjectgen.runner.generation.request import check_prompts

LINES = (".jsonl", ".ndjson")


class ReferenceEntry(Config):
    """One reference picture with what is known of it."""

    image: str
    """Picture file."""
    subject_mask: str = ""
    """Where the subject is in it: a picture, a box ``left,top,right,bottom``, ``find:`` and a phrase, or nothing."""
    region: str = ""
    """Where the subject shall appear in the result; the same forms."""
    weight: float = 1.0
    """How strongly it speaks."""


class RequestEntry(Config):
    """One request of a file."""

    key: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Start of the images' file names; null: the number of the request and its prompt."""
    prompt: str | tuple[str, ...]
    """One, or several for the same references."""
    references: tuple[str | ReferenceEntry, ...] = ()
    """Picture files, or pictures with masks and weights."""
    seeds: int | tuple[int, ...] = 0
    """One, or several."""
    height: int | None = Field(default=None, ge=1)
    """Pixels; null: the experiment's."""
    width: int | None = Field(default=None, ge=1)
    """Pixels."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What somebody asks for: prompts, all with the same references, seeds and size."""

    place: str = ""
    """Where it stands, for messages: file and line."""
    key: str | None = None
    prompts: tuple[str, ...]
    references: ReferenceFiles
    seeds: tuple[int, ...]
    size: tuple[int | None, int | None] = (None, None)
    """Height and width."""


def read_requests(path: Path) -> tuple[list[Asked], list[str]]:
    """Requests of a file, and messages about those that cannot be used.

    Raises:
        InputError: No such file, not text, or no list of requests at all.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--requests: {path} cannot be read: {error}") from None
    entries = list(_lines(text, path)) if path.suffix.lower() in LINES else list(_list(text, path))
    if not entries:
        raise InputError(f"--requests: {path} holds no request")
    asked, problems = [], []
    for where, values, lines in entries:
        try:
            asked.append(_asked(path, where, values, lines))
        except SubjectgenError as error:
            problems += str(error).splitlines()
    return asked, problems


Entry = tuple[str, Any, Mapping[str, str]]
"""Key path in the file, values, and places of keys."""


def _list(text: str, path: Path) -> Iterator[Entry]:
    values, lines = read_yaml(text, str(path))
    if values is None:
        return
    if not isinstance(values, list):
        raise InputError(f"--requests: {path}: got {shown(values)}; expected a list of requests, `- {{prompt: ...}}`")
    for number, value in enumerate(values):
        yield str(number), value, lines


def _lines(text: str, path: Path) -> Iterator[Entry]:
    for number, line in enumerate(text.splitlines()):
        if line.strip():
            try:
                values, _ = read_yaml(line, str(path))
            except ConfigError as error:
                values = error
            yield "", values, {"": f"{path}:{number + 1}"}


def _asked(path: Path, where: str, values: Any, lines: Mapping[str, str]) -> Asked:
    place = lines.get(where, str(path))
    if isinstance(values, ConfigError):
        raise values
    if not isinstance(values, dict):
        raise InputError(f"{place}: got {shown(values)}; expected a mapping with a prompt")
    try:
        entry = validate(RequestEntry, values, file=place if not where else str(path), where=where, lines=lines)
        prompts = (entry.prompt,) if isinstance(entry.prompt, str) else entry.prompt
        check_prompts(prompts)
    except InputError as error:
        raise InputError(f"{locate(where, place)}{error}") from None
    return Asked(
        place=place,
        key=entry.key,
        prompts=prompts,
        references=_references(path.parent, entry.references),
        seeds=(entry.seeds,) if isinstance(entry.seeds, int) else entry.seeds,
        size=(entry.height, entry.width),
    )


def _references(folder: Path, given: Sequence[str | ReferenceEntry]) -> ReferenceFiles:
    entries = [ReferenceEntry(image=one) if isinstance(one, str) else one for one in given]
    return ReferenceFiles(
        pictures=tuple(folder / entry.image for entry in entries),
        subject_masks=tuple(_mask(folder, entry.subject_mask) for entry in entries),
        regions=tuple(_mask(folder, entry.region) for entry in entries),
        weights=tuple(entry.weight for entry in entries),
    )


def _mask(folder: Path, form: str) -> str:
    """A mask's form with its path, if it is one, relative to the file."""
    is_path = form and not form.startswith(FIND) and form.count(",") != 3
    return str(folder / form) if is_path else form
