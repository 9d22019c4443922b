"""Writing images so that each can be made again: settings in the PNG's metadata and in a JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from subjectgen.core.files import atomic_write
from subjectgen.core.images import to_pil
from subjectgen.core.json_files import write_json


def save_image(image: Float[Tensor, "3 h w"], path: Path, record: Mapping[str, Any]) -> None:
    """Write ``path`` (PNG) and ``path`` with suffix ``.json``; neither is ever half-written."""
    text = PngInfo()
    text.add_itxt("subjectgen", json.dumps(record, ensure_ascii=False))
    text.add_itxt("prompt", str(record.get("prompt", "")))
    text.add_text("seed", str(record.get("seed", "")))
    write_json(path.with_suffix(".json"), record)  # first: a picture that is there is complete
    with atomic_write(path) as temporary:
        to_pil(image).save(temporary, format="PNG", pnginfo=text)
