"""DynaIP-Bench (B.1): 642 pairs and 246 triplets of subjects with prompts, from a folder of subjects.

The paper's subjects are not published, nor how many combinations each type has. 642 = 107 * 6 and 246 = 41 * 6, so
every drawn set of subjects gets all six prompts of its type, and the sets are spread over the types as evenly as
possible: 11 or 10 sets of each type.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
import yaml
from pydantic import Field, PositiveInt, field_validator

from subjectgen.core import (
    ChangesNothing,
    ChangesResults,
    Config as BaseConfig,
    InputError,
    Reference,
    Sample,
    is_hidden,
    load_mask,
    load_reference,
    nearest,
    visible_files,
)
from subjectgen_dynaip.bench_prompts import COMBINATIONS, DATA_TYPES, Box, Combination
from subjectgen_dynaip.pairs import read_fields

LIST = "subjects.yaml"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MASK = ".mask.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One subject of the benchmark."""

    name: str
    type: str
    """One of the eight data types."""
    word: str
    """What prompts call it."""
    image: Path
    mask: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One sample before its pictures are read."""

    combination: Combination
    subjects: tuple[Subject, ...]
    number: int
    """Which of the type's sets of subjects, from 1."""
    variation: int
    """Which of the type's prompts."""

    @property
    def key(self) -> str:
        """Such as ``living-object-001-0``: types, set of subjects, prompt."""
        return f"{'-'.join(self.combination.types)}-{self.number:03d}-{self.variation}"

    @property
    def prompt(self) -> str:
        """The prompt with the subjects' words."""
        return self.combination.prompt(self.variation, tuple(subject.word for subject in self.subjects))


class DynaIPBench:
    """Several subjects and a prompt per sample, drawn from a folder with a seed; no targets.

    Keys are ``living-object-001-0``: combination type, set of subjects, prompt. Facts are ``subjects``, ``classes``
    (the prompt's words) and ``categories`` (data types), in the order of the references; ``combination``, such as
    ``living+object``; and ``variation``, what the prompt has the subjects do.

    Either the folder has one folder per data type, with pictures ``living/corgi.jpg`` and, where known, masks
    ``living/corgi.mask.png``; prompts then say ``corgi``: the file's name without a number at its end. Or it has a file
    ``subjects.yaml`` with an entry ``corgi: {type: living, class: dog, image: corgi/00.jpg, mask: corgi/00.png}`` per
    subject, ``mask`` optional and paths relative to the folder.
    """

    class Config(BaseConfig):
        """Options of ``dynaip_bench``."""

        folder: ChangesNothing[Path]
        """Folder of the subjects."""
        types: ChangesResults[tuple[str, ...] | None] = Field(default=None, min_length=1)
        """Combination types that are wanted, such as ``living+object``; null: all 14."""
        pairs: ChangesResults[int] = Field(default=642, ge=0)
        """Samples with two subjects, spread over the wanted types of two."""
        triplets: ChangesResults[int] = Field(default=246, ge=0)
        """Samples with three subjects, spread over the wanted types of three."""
        seed: ChangesResults[int] = Field(default=0, ge=0, lt=2**32)
        """Seed of the drawn sets."""
        regions: ChangesResults[Literal["preset", "none"]] = "preset"
        """``preset`` gives each subject the part of the picture that the prompt names (left, right, a garment's
        place); ``none`` leaves regions to a finder or to no one."""
        height: ChangesResults[PositiveInt] = 1024
        """Rows of the preset regions, as in the image that is generated."""
        width: ChangesResults[PositiveInt] = 1024
        """Columns of the preset regions."""

        @field_validator("types")
        @classmethod
        def _known(cls, types: tuple[str, ...] | None) -> tuple[str, ...] | None:
            names = [combination.name for combination in COMBINATIONS]
            for name in types or ():
                if name not in names:
                    raise ValueError(f"{name!r} is no combination type{nearest(name, names)}; there are {names}")
            return types

    def __init__(self, config: Config) -> None:
        """Find the subjects and draw their sets.

        Raises:
            InputError: No folder, a wrong entry, or too few subjects of a type. Names what is needed.
        """
        self.config = config
        folder = config.folder.expanduser()
        subjects = read_subjects(folder)
        self.cases: list[Case] = []
        for combination, count in _counts(config):
            pools = {kind: [s for s in subjects if s.type == kind] for kind in combination.types}
            _check_pools(folder, combination, pools)
            self.cases += _cases(combination, pools, count, config.seed)
        if not self.cases:
            raise InputError("dynaip_bench: no samples; expected pairs or triplets > 0 for the wanted types")

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            InputError: A picture or mask that cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        case = self.cases[index]
        placed = zip(case.subjects, case.combination.boxes, strict=True)
        return Sample(
            key=case.key,
            prompt=case.prompt,
            references=tuple(self._reference(*one) for one in placed),
            facts={
                "subjects": [subject.name for subject in case.subjects],
                "classes": [subject.word for subject in case.subjects],
                "categories": [subject.type for subject in case.subjects],
                "combination": case.combination.name,
                "variation": case.combination.variations[case.variation],
            },
        )

    def _reference(self, subject: Subject, box: Box) -> Reference:
        size = self.config.height, self.config.width
        image = load_reference(subject.image).image
        mask = None if subject.mask is None else load_mask(subject.mask, label="subject mask")
        if mask is not None and mask.shape[1:] != image.shape[1:]:
            sizes = "{}x{}; expected the size of its picture, {}x{}".format(*mask.shape[1:], *image.shape[1:])
            raise InputError(f"{subject.mask}: is {sizes} (height x width)")
        region = load_mask(box, size, label="region") if self.config.regions == "preset" else None
        return Reference(image=image, subject_mask=mask, region_mask=region, name=subject.name)


# ------------------------------------------------------------------------------------------------------ subjects


def read_subjects(folder: Path) -> list[Subject]:
    """All subjects of a folder, sorted by name, so that every machine draws the same.

    Raises:
        InputError: No folder, an entry that is wrong, two pictures of one name, or a picture that is not there.
    """
    visible_files(folder)  # says what is wrong where it is no folder
    found = list(_listed(folder / LIST) if (folder / LIST).is_file() else _in_folders(folder))
    return sorted(found, key=lambda subject: (subject.type, subject.name))


def _in_folders(folder: Path) -> Iterator[Subject]:
    for kind in DATA_TYPES:
        files = visible_files(folder / kind, SUFFIXES) if (folder / kind).is_dir() else []
        masks = {file.name[: -len(MASK)]: file for file in files if file.name.lower().endswith(MASK)}
        pictures = [file for file in files if file not in masks.values()]
        for name, count in Counter(file.stem for file in pictures).items():
            if count > 1:
                raise InputError(f"{folder / kind}: {count} pictures are named {name!r}; expected one per subject")
        for file in pictures:
            word = re.sub(r"[\s_-]+", " ", file.stem).rstrip(" 0123456789").strip() or file.stem
            yield Subject(name=file.stem, type=kind, word=word, image=file, mask=masks.get(file.stem))


def _listed(file: Path) -> Iterator[Subject]:
    for name, line, values in _entries(file):
        place = f"{file}:{line}: {name}"
        fields = read_fields(values, ("type", "class", "image"), ("mask",), place)
        if fields["type"] not in DATA_TYPES:
            kinds = ", ".join(DATA_TYPES)
            raise InputError(
                f"{place}: type: got {fields['type']!r}; expected one of {kinds}{nearest(fields['type'], DATA_TYPES)}"
            )
        paths = {key: file.parent / fields[key] for key in ("image", "mask") if key in fields}
        for key, path in paths.items():
            if not path.is_file():
                raise InputError(f"{place}: {key}: no such file {path}")
        yield Subject(name=name, type=fields["type"], word=fields["class"].strip(), **paths)


def _entries(file: Path) -> Iterator[tuple[str, int, object]]:
    """Name, line and content of each entry."""
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        nodes = root.value if isinstance(root, yaml.MappingNode) else ()
        entries = [(str(k.value), k.start_mark.line + 1, loader.construct_object(v, True)) for k, v in nodes]
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2024-13-45 is a ValueError
        raise InputError(f"{file}: cannot be read: {' '.join(str(error).split())}") from None
    if not entries:
        raise InputError(f"{file}: no entries; expected names of subjects with type, class, image and mask")
    for name, count in Counter(name for name, _, _ in entries).items():
        if count > 1:
            raise InputError(f"{file}: {count} entries are named {name!r}; expected one per subject")
    yield from entries


# ------------------------------------------------------------------------------------------------------- drawing


def _counts(config: DynaIPBench.Config) -> Iterator[tuple[Combination, int]]:
    """Samples per wanted type, in the table's order."""
    wanted = [c for c in COMBINATIONS if config.types is None or c.name in config.types]
    for size, total in ((2, config.pairs), (3, config.triplets)):
        of_size = [combination for combination in wanted if len(combination.types) == size]
        yield from ((c, n) for c, n in zip(of_size, _spread(total, len(of_size)), strict=True) if n)


def _spread(total: int, parts: int, unit: int = 6) -> list[int]:
    """``total`` in nearly equal parts; whole sets of prompts where there are enough of them."""
    if parts and (total % unit or total < unit * parts):
        unit = 1
    share, more = divmod(total // unit, parts) if parts else (0, 0)
    return [unit * (share + (part < more)) for part in range(parts)]


def _check_pools(folder: Path, combination: Combination, pools: Mapping[str, Sequence[Subject]]) -> None:
    for kind, needed in Counter(combination.types).items():
        if len(pools[kind]) < needed:
            names = (entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))
            raise InputError(
                f"{folder}: {combination.name} needs {needed} subjects of type {kind!r}, found {len(pools[kind])}; "
                f"expected pictures in {folder / kind} or entries in {LIST}{nearest(kind, names)}, or name the "
                "combination types that you have in types"
            )


def _cases(combination: Combination, pools: Mapping[str, Sequence[Subject]], count: int, seed: int) -> list[Case]:
    """``count`` samples of one type: every set of subjects with all prompts, the last one perhaps with some."""
    generator = torch.Generator().manual_seed(seed * len(COMBINATIONS) + COMBINATIONS.index(combination))
    prompts = len(combination.variations)
    different = math.prod(math.comb(len(pools[kind]), number) for kind, number in Counter(combination.types).items())
    if count > different * prompts:
        message = f"dynaip_bench: {combination.name}: {count} samples of {different} different sets of subjects repeat"
        warnings.warn(message, stacklevel=3)
    sets = list(islice(_sets(combination, pools, different, generator), math.ceil(count / prompts)))
    left = torch.randperm(prompts, generator=generator)[: count - prompts * (len(sets) - 1)].sort().values.tolist()
    return [
        Case(combination=combination, subjects=subjects, number=number, variation=variation)
        for number, subjects in enumerate(sets, 1)
        for variation in (left if number == len(sets) else range(prompts))
    ]


def _sets(
    combination: Combination, pools: Mapping[str, Sequence[Subject]], different: int, generator: torch.Generator
) -> Iterator[tuple[Subject, ...]]:
    """Sets of subjects at random, none twice before all were there; who stands where is drawn too."""
    seen: set[frozenset[tuple[str, int]]] = set()
    while True:
        drawn = {kind: iter(torch.randperm(len(pool), generator=generator).tolist()) for kind, pool in pools.items()}
        chosen = [(kind, next(drawn[kind])) for kind in combination.types]
        if frozenset(chosen) not in seen:
            seen.add(frozenset(chosen))
            yield tuple(pools[kind][place] for kind, place in chosen)
        if len(seen) == different:
            seen.clear()
