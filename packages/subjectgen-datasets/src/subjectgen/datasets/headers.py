"""The size that a picture will have once it is decoded and turned as the camera was held, from its header alone."""

from __future__ import annotations

import struct
from io import BufferedIOBase
from typing import IO, cast

from PIL import Image, ImageOps

from subjectgen.datasets.sources import Source

ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""Orientations of EXIF under which rows become columns. Pillow gives a TIFF's size as it is once turned."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture_size(source: Source) -> tuple[int, int] | None:
    """Height and width; ``None`` for what is no picture or cannot be opened. Reading it will say why."""
    try:
        with source.open() as stream, Image.open(cast(IO[bytes], stream)) as image:
            if image.format == "PNG" and _may_be_turned(stream):
                return _decoded_size(source)
            if image.format not in ("PNG", "TIFF") and image.getexif().get(ORIENTATION) in SIDEWAYS:
                return image.width, image.height
            return image.height, image.width
    except Exception:  # decoders raise anything on a damaged file
        return None


def _decoded_size(source: Source) -> tuple[int, int]:
    with source.open() as stream, Image.open(cast(IO[bytes], stream)) as image:
        turned = ImageOps.exif_transpose(image)
        return turned.height, turned.width


def _may_be_turned(stream: BufferedIOBase) -> bool:
    """Whether a PNG has a chunk that can hold an orientation.

    Such chunks may follow the pixels; Pillow would decode them all to find out, and UNO-1M is a million PNGs.
    """
    at = len(SIGNATURE)
    while True:
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return False
        length = struct.unpack(">I", head[:4])[0]
        if head[4:] == b"eXIf":
            return True
        if head[4:] in (b"iTXt", b"tEXt", b"zTXt"):
            keyword = stream.read(min(length, 24))
            if keyword.startswith((b"XML:com.adobe.xmp", b"Raw profile type")):
                return True
        at += length + 12
