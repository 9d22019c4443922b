"""Images of an evaluation on disk: written as they come, found again after a kill.

A folder belongs to one set of settings. What is measured is what lies there: eight bits per value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from subjectgen.core import Changes, InputError
from subjectgen.core.files import atomic_write
from subjectgen.core.images import to_pil
from subjectgen.core.json_files import read_json, write_json
from subjectgen.core.roles import values
from subjectgen.runner.system.identity import identity
from subjectgen.runner.system.system import System

SETTINGS = "settings.json"


class ImageStore:
    """PNG files by key and seed."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open a folder, new or of the same settings.

        Raises:
            InputError: The folder holds images of other settings; names the first that differs.
        """
        self.folder, self.settings = folder, json.loads(json.dumps(settings, default=str))
        file = folder / SETTINGS
        if not file.is_file():
            write_json(file, self.settings)
            return
        other = first_difference(read_json(file), self.settings)
        if other:
            raise InputError(
                f"{folder}: holds images of other settings ({other}); expected another folder, or delete this one"
            )

    def path(self, key: str, seed: int) -> Path:
        """Where one image is, or will be."""
        return self.folder / "images" / f"{key}-seed{seed}.png"

    def __contains__(self, case: tuple[str, int]) -> bool:
        return self.path(*case).is_file()

    def write(self, key: str, seed: int, image: Float[Tensor, "3 h w"]) -> None:
        """Keep one image; never half a file."""
        with atomic_write(self.path(key, seed)) as path:
            to_pil(image).save(path, format="PNG")

    def read(self, key: str, seed: int) -> Float[Tensor, "3 h w"]:
        """An image as metrics see it, RGB in [0, 1].

        Raises:
            InputError: It is damaged; names the file.
        """
        path = self.path(key, seed)
        try:
            with Image.open(path) as picture:
                pixels = np.array(picture.convert("RGB"))
        except Exception as error:  # decoders raise many kinds
            raise InputError(f"{path}: cannot be decoded ({error}); delete it, and it is made again") from error
        return torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).contiguous()


def depends(system: System, dataset: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """What images of a data set's samples depend on, beside their seeds: equal settings, equal images."""
    image = values(system.experiment.settings.image, Changes.RESULTS)
    return {**identity(system), "image": image, "dataset": dict(dataset), "keys": digest(keys)}


def digest(value: Any) -> str:
    """A short hash of anything that JSON holds, the same in every process."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def first_difference(then: Any, now: Any, path: str = "") -> str | None:
    """The first key that differs between two trees, with both values; ``None`` if none does."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return next(_differences(then, now, path), None)
    return None if then == now else f"{path}: {json.dumps(then)[:60]} -> {json.dumps(now)[:60]}"


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in sorted(then.keys() | now.keys()):
        found = first_difference(then.get(key), now.get(key), f"{path}.{key}" if path else key)
        if found:
            yield found
