"""A model's folder, wherever it lies: its configuration, its weights and other files, fetched when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from subjectgen.core.errors import CheckpointError
from subjectgen.core.json_files import read_json
from subjectgen.core.weights.headers import Weights
from subjectgen.core.weights.hub import NotAskedError, find_on_hub
from subjectgen.core.weights.resolve import local_path, resolve_checkpoint


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder, ``package:some.package/path``, a hub id or one safetensors file; ``str()`` is for messages."""

    name: str
    """As :func:`~subjectgen.core.resolve_checkpoint` takes it."""
    subfolder: str = ""
    """Folder inside."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; ``None`` is its main branch."""
    local_files_only: bool = False
    """Never ask the hub."""
    relative_to: Path | None = None
    """Folder that a relative path starts from; ``None`` is the current one."""

    def __str__(self) -> str:
        return f"checkpoint {self.name!r}{f', folder {self.subfolder!r},' if self.subfolder else ''}"

    def at(self, subfolder: str) -> Checkpoint:
        """Another folder of the same checkpoint."""
        return replace(self, subfolder=subfolder)

    @cached_property
    def path(self) -> Path | None:
        """The local folder or file, verified; ``None`` on the hub.

        Raises:
            CheckpointError: As :func:`~subjectgen.core.resolve_checkpoint`, or no such subfolder.
        """
        root = Path(resolve_checkpoint(self.name, revision=self.revision, relative_to=self.relative_to))
        if local_path(self.name, relative_to=self.relative_to) is None:
            return None
        if self.subfolder and not (root / self.subfolder).is_dir():
            present = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
            raise CheckpointError(
                f"checkpoint {self.name!r} has no folder {self.subfolder!r}; folders there: {present or 'none'}"
            )
        return root / self.subfolder

    def find(self, *names: str, needed: bool = True) -> Path | None:
        """The first of these files that is there, from the hub's cache or downloaded where it must be.

        All small files beside it are then on this machine, too, so that libraries can be given its folder.

        Args:
            names: Names in the folder, the one that is preferred first.
            needed: Whether it is an error if the hub, which may have one, was not reached.

        Raises:
            CheckpointError: What the hub refuses, in one line.
        """
        if self.path is not None:
            return next((self.path / name for name in names if (self.path / name).is_file()), None)
        try:
            return next(iter(self._on_hub(names)), None)
        except NotAskedError:
            if needed:
                raise
            return None

    def need(self, what: str, *names: str) -> Path:
        """As :meth:`find`, but an error if none is there; ``what`` they are."""
        found = self.find(*names)
        if found is None:
            raise CheckpointError(f"{self} has no {what}{self._instead()}; expected {' or '.join(names)}")
        return found

    def json(self, *names: str, needed: bool = False) -> dict[str, Any] | None:
        """Read the first of these files that is there, a JSON object; ``None`` if none is. As :meth:`find`."""
        file = self.find(*names, needed=needed)
        return None if file is None else read_json(file)

    def config(self, key: str, expected: Sequence[str]) -> dict[str, Any]:
        """Read ``config.json`` and see that it describes the wanted architecture, before any weight is fetched.

        Args:
            key: Where the architecture stands: ``model_type`` for transformers, ``_class_name`` for diffusers.
            expected: What may stand there.

        Raises:
            CheckpointError: No such file, or it names something else.
        """
        wanted, values = " or ".join(map(repr, expected)), self.json("config.json", needed=True)
        if values is None:
            there = f"{self} has no config.json{self._instead()}"
            raise CheckpointError(f"{there}; expected a model of type {wanted}{self._elsewhere(expected)}")
        if values.get(key) not in expected:
            raise CheckpointError(f"{self} holds a model of type {values.get(key)!r}, expected {wanted}")
        return values

    def weights(self, stem: str) -> Weights:
        """All weight files of a model, downloaded where they must be, their headers read once: whole, or an error.

        Args:
            stem: ``model`` for transformers, ``diffusion_pytorch_model`` for diffusers. A checkpoint that is one file
                has no other.

        Raises:
            CheckpointError: No weights in safetensors, or a file that is missing, truncated or damaged.
        """
        if self.path is not None and self.path.is_file():
            return _whole(Weights(file=self.path))
        names = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
        file = self.find(*names)
        if file is None:
            raise CheckpointError(
                f"{self} has no weights: expected {' or '.join(names)}{self._instead()}; pickles are never read"
                + ("" if self.path else " (the hub's converter may offer safetensors as revision refs/pr/NUMBER)")
            )
        weights = Weights(file=file)
        if self.path is None:
            self._on_hub(weights.names, enough=len(weights.names))
        return _whole(weights)

    def _on_hub(self, names: Sequence[str], *, enough: int = 1) -> list[Path]:
        options: dict[str, Any] = {"subfolder": self.subfolder, "revision": self.revision}
        return find_on_hub(self.name, names, **options, local_only=self.local_files_only, enough=enough)

    def _instead(self) -> str:
        """What a local folder holds instead of a file."""
        if self.path is None or not self.path.is_dir():
            return ""
        return f", found {', '.join(sorted(path.name for path in self.path.iterdir())[:12]) or 'nothing'}"

    def _elsewhere(self, expected: Sequence[str]) -> str:
        """Folders inside that hold a model, as a pipeline's index says or as they are found."""
        if self.subfolder:
            return ""
        parts = {name: part for name, part in (self.json("model_index.json") or {}).items() if isinstance(part, list)}
        fitting = [name for name, part in parts.items() if part[-1] in expected]
        found = [file.parent.name for file in self.path.glob("*/config.json")] if self.path else []
        names = sorted(fitting or parts or found)
        return f"; did you mean subfolder {' or '.join(map(repr, names))}?" if names else ""


def _whole(weights: Weights) -> Weights:
    weights.shapes()
    return weights
