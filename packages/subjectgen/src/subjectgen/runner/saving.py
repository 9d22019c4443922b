"""Writing images so that each can be made again: settings in the PNG's metadata and in a JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from subjectgen.core.files import atomic_write


def save_image(image: Image.Image, path: Path, record: Mapping[str, Any]) -> None:
    """Write ``path`` (PNG) and ``path`` with suffix ``.json``; neither is ever half-written."""
    text = PngInfo()
    text.add_itxt("subjectgen", json.dumps(record, ensure_ascii=False))
    text.add_itxt("prompt", str(record.get("prompt", "")))
    text.add_text("seed", str(record.get("seed", "")))
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=text)
    write_json(path.with_suffix(".json"), record)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
