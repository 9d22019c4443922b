"""Text that comes from outside and text that goes out, in any locale: nothing here can end in a UnicodeError."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from subjectgen.core.errors import InputError


def valid_text(text: object, what: str) -> str:
    """Text that every tokenizer, file and terminal can encode; what a narrow locale damaged is repaired.

    Python gives bytes of the command line that the locale has no letters for as lone surrogates. If they are UTF-8,
    the letters come back; so do pairs of surrogates, as other languages write letters beyond the first 65,536.

    Args:
        text: What was given.
        what: What it is, for messages, such as ``prompt``.

    Raises:
        InputError: Not text, or letters that cannot be repaired. Names the place and what it holds.
    """
    if not isinstance(text, str):
        raise InputError(f"{what}: got {type(text).__name__} {text!r:.60}; expected text")
    if _is_valid(text):
        return str(text)
    for encoding, errors in (("utf-8", "surrogateescape"), ("utf-16", "surrogatepass")):
        try:
            return text.encode(encoding, errors).decode(encoding)
        except UnicodeError:
            continue
    place = next(number for number, letter in enumerate(text) if "\ud800" <= letter <= "\udfff")
    raise InputError(
        f"{what}: {ascii(text)[:80]} is no valid Unicode at character {place + 1} ({ascii(text[place])[1:-1]}); "
        "expected UTF-8 (on a command line: a locale such as C.UTF-8, or PYTHONUTF8=1)"
    )


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON with its letters readable, or all of them escaped where some could not be encoded."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if _is_valid(text) else json.dumps(value, indent=indent)


def tolerate_letters(*streams: Any) -> None:
    r"""Let streams, standard output and error by default, write ``\u732b`` for what they have no letter for."""
    for stream in streams or (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not so under tests and in notebooks, which take everything
            stream.reconfigure(errors="backslashreplace")


def _is_valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
