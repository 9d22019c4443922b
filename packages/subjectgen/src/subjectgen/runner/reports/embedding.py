"""Pictures as part of a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

EXACT = 128
"""Pixels of a side up to which a picture may be kept as it is."""


def opened(path: Path) -> Image.Image:
    """A picture in RGB."""
    with Image.open(path) as file:
        return file.convert("RGB")


def embedded(path: Path, *, limit: int, exact: bool = False) -> str:
    """A picture, its longer side at most so many pixels; ``exact``: a small one bit by bit, five times as large."""
    picture = opened(path)
    picture.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    return embedded_picture(picture, exact=exact and max(picture.size) <= EXACT)


def enlarged(path: Path, *, side: int) -> str:
    """A picture whose longer side has so many pixels, whether it had more or fewer."""
    picture = opened(path)
    scale = side / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return embedded_picture(picture.resize(size, Image.Resampling.LANCZOS))


def embedded_picture(picture: Image.Image, *, exact: bool = False) -> str:
    """A picture in memory."""
    content = io.BytesIO()
    how = {"lossless": True, "method": 2, "quality": 50} if exact else {"method": 4, "quality": 95}
    picture.save(content, format="WEBP", **how)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
