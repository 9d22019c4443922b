"""``config.json`` of a checkpoint without a download: shipped by plugins, or read from a local folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from subjectgen.core import CheckpointError, nearest, resolve_checkpoint
from subjectgen.core.plugins import Plugins
from subjectgen.core.weights import Checkpoint


def is_local(checkpoint: str) -> bool:
    """Whether the checkpoint lies on this machine: a folder or ``package:...``."""
    return checkpoint.startswith("package:") or Path(checkpoint).expanduser().exists()


class Shipped:
    """Sizes that installed components bring along, each in its distribution's folder ``owner--name``."""

    def __init__(self, plugins: Plugins) -> None:
        offered = [component for plugin in plugins.plugins for some in plugin.components.values() for component in some]
        self._folders = [
            Path(resolve_checkpoint(sizes)) for sizes in sorted({component.sizes for component in offered} - {""})
        ]

    def ids(self) -> list[str]:
        """Hub ids whose sizes are known; one model's folders may come from several distributions."""
        names = {model.name for folder in self._folders for model in folder.iterdir() if model.is_dir()}
        return sorted(name.replace("--", "/", 1) for name in names if "--" in name)

    def find(self, checkpoint: str, subfolder: str = "", filename: str = "config.json") -> dict[str, Any] | None:
        """The file's content; ``None`` if the checkpoint has no such file.

        Raises:
            CheckpointError: A hub id that is not shipped, a folder that does not exist, or a file that is no JSON.
        """
        roots = [checkpoint] if is_local(checkpoint) else self._roots(checkpoint)
        for root in roots:
            found = Checkpoint(name=root).json(str(PurePosixPath(subfolder) / filename))
            if found is not None:
                return found
        return None

    def read(self, checkpoint: str, subfolder: str = "", filename: str = "config.json") -> dict[str, Any]:
        """As :meth:`find`, but a missing file is an error.

        Raises:
            CheckpointError: Also if the checkpoint has no such file.
        """
        found = self.find(checkpoint, subfolder, filename)
        if found is None:
            raise CheckpointError(f"checkpoint {checkpoint!r} has no {PurePosixPath(subfolder) / filename}")
        return found

    def _roots(self, checkpoint: str) -> list[str]:
        known = self.ids()
        if checkpoint not in known:
            raise CheckpointError(
                f"checkpoint {checkpoint!r}: its sizes are not known without a download{nearest(checkpoint, known)}; "
                f"expected a local folder or one of {', '.join(known) or 'none that is shipped'}"
            )
        places = [folder / checkpoint.replace("/", "--", 1) for folder in self._folders]
        return [str(place) for place in places if place.is_dir()]
