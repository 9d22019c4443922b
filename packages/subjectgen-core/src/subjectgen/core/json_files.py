"""JSON in and out of files: readable, never half-written, and one message when it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from subjectgen.core.errors import CheckpointError
from subjectgen.core.files import atomic_write
from subjectgen.core.text import json_text


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json_text(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: Missing, damaged, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content
