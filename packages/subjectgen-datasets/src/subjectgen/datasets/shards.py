"""Packing any data set into tar shards that ``tar_shards`` and every tool for WebDataset read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from subjectgen.core import Dataset, InputError, Sample, to_pil
from subjectgen.core.files import atomic_folder
from subjectgen.datasets.entries import Entry, HasEntries
from subjectgen.datasets.left_out import LeftOut, RefusedError
from subjectgen.datasets.named_pictures import ENDINGS
from subjectgen.datasets.sources import Source
from subjectgen.datasets.storage import file_size
from subjectgen.datasets.tar_index import DOT
from subjectgen.datasets.tar_members import index_place, scan_tar, write_index

SHARD_SIZE = 1 << 30
"""Bytes after which a shard is full."""
OnSample = Callable[[int, int], None]
"""Told after each sample: how many were looked at, and of how many."""
Files = list[tuple[str, bytes]]
"""Endings and contents of a sample's members."""


@dataclass
class Packed:
    """What was written."""

    folder: Path
    samples: int = 0
    shards: list[str] = field(default_factory=list)
    rounded: int = 0
    """Pictures that were not made of 8-bit values, and now are."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Samples that cannot be read."""


def check_new(out: Path) -> None:
    """Raises:
    InputError: Something is there already.
    """
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out: {out} exists and is not empty; expected a new folder, for shards appear whole or not")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: {out} is a file; expected a new folder")


def write_shards(
    dataset: Dataset, out: Path, *, shard_size: int = SHARD_SIZE, on_sample: OnSample = lambda _done, _of: None
) -> Packed:
    """Pack a data set; the folder appears whole, or not at all.

    Pictures keep the bytes of their files where the data set says where they lie
    (:class:`~subjectgen.datasets.entries.HasEntries`): they are packed as they are, before ``size`` and ``buckets``,
    which are then options of ``tar_shards``. Of other data sets the finished pictures are packed, as PNG. Each sample
    is read first: what cannot be read is left out and counted.

    Args:
        dataset: What to pack.
        out: A new folder.
        shard_size: A shard is full when it has so many bytes.
        on_sample: Told how far it is.

    Raises:
        InputError: The folder is not new, cannot be written, or no sample can be read.
    """
    check_new(out)
    packed, keys = Packed(out), set[str]()
    with atomic_folder(out) as folder:
        writer = _Writer(folder, shard_size)
        try:
            for index in range(len(dataset)):
                _pack(dataset, index, writer, packed, keys)
                on_sample(index + 1, len(dataset))
        finally:
            writer.close()
        if not packed.samples:
            reasons = [example for examples in packed.left_out.examples.values() for example in examples]
            raise InputError("\n".join(["no sample can be read, so nothing is written", *reasons[:3]]))
        packed.shards = [path.name for path in writer.paths]
        summary = {"samples": packed.samples, "shards": packed.shards, "left_out": dict(packed.left_out.counts)}
        (folder / "packed.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return packed


def _pack(dataset: Dataset, index: int, writer: _Writer, packed: Packed, keys: set[str]) -> None:
    try:
        sample = dataset[index]
        files, rounded = _originals(dataset.entry(index)) if isinstance(dataset, HasEntries) else _pictures(sample)
    except (InputError, OSError) as error:
        reason = getattr(error, "reason", "") or type(error).__name__
        packed.left_out.add(f"sample {index}", RefusedError(reason, str(error)))
        return
    if sample.key.lower() in keys:
        packed.left_out.add(f"sample {index}", RefusedError("key is that of another sample", sample.key))
        return
    keys.add(sample.key.lower())
    writer.add(sample.key.replace(".", DOT), [("json", _description(sample)), *files])
    packed.samples += 1
    packed.rounded += rounded


def _description(sample: Sample) -> bytes:
    references = [{"name": one.name, "weight": one.weight} for one in sample.references]
    told = {"key": sample.key, "prompt": sample.prompt, "facts": dict(sample.facts), "references": references}
    return json.dumps(told, ensure_ascii=False, allow_nan=False).encode("utf-8")


# ------------------------------------------------------------------------------------------------------ pictures


def _originals(entry: Entry) -> tuple[Files, int]:
    """Bytes of the files as they are."""
    found = [] if entry.target is None else [("target", entry.target)]
    for number, one in enumerate(entry.references):
        named = (("reference", one.picture), ("mask", one.subject_mask), ("region", one.region_mask))
        found += [(f"{role}{number}", source) for role, source in named if source is not None]
    return [_original(role, source) for role, source in found], 0


def _original(role: str, source: Source) -> tuple[str, bytes]:
    content = source.read()
    ending = source.name.rpartition(".")[2].lower()
    if ending not in ENDINGS:
        with Image.open(io.BytesIO(content)) as image:
            ending = (image.format or "").lower()
    if ending not in ENDINGS:
        raise InputError(f"{source.name}: a picture of format {ending!r}; expected one of {', '.join(ENDINGS)}")
    return f"{role}.{ending}", content


def _pictures(sample: Sample) -> tuple[Files, int]:
    """Finished pictures as PNG, and how many of them were rounded."""
    found: list[tuple[str, Tensor | None]] = [("target", sample.target)]
    for number, one in enumerate(sample.references):
        found += [(f"reference{number}", one.image), (f"mask{number}", one.subject_mask)]
        found += [(f"region{number}", one.region_mask)]
    there = [(role, image) for role, image in found if image is not None]
    return [(f"{role}.png", _png(image)) for role, image in there], sum(_is_rounded(image) for _, image in there)


def _png(image: Float[Tensor, "c h w"]) -> bytes:
    content = io.BytesIO()
    picture = to_pil(image.expand(3, -1, -1))
    (picture if len(image) == 3 else picture.convert("L")).save(content, format="PNG", compress_level=3)
    return content.getvalue()


def _is_rounded(image: Float[Tensor, "c h w"]) -> bool:
    return not torch.equal(image.float(), image.float().mul(255).round().div(255))


# -------------------------------------------------------------------------------------------------------- writing


class _Writer:
    """One tar after another; the same samples give the same bytes."""

    def __init__(self, folder: Path, shard_size: int) -> None:
        self._folder, self._size = folder, shard_size
        self._tar: tarfile.TarFile | None = None
        self.paths: list[Path] = []

    def add(self, stem: str, files: Files) -> None:
        """All members of a sample, into one shard."""
        if self._tar is not None and self._tar.offset >= self._size:
            self.close()
        if self._tar is None:
            self.paths.append(self._folder / f"shard-{len(self.paths):06d}.tar")
            self._tar = tarfile.open(self.paths[-1], "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        for ending, content in files:
            info = tarfile.TarInfo(f"{stem}.{ending}")
            info.size, info.mode = len(content), 0o644
            self._tar.addfile(info, io.BytesIO(content))

    def close(self) -> None:
        """Finish the shard that is open, and write its index."""
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        place = str(self.paths[-1])
        Path(index_place(place)).write_text(write_index(scan_tar(place, file_size(place))), encoding="utf-8")
