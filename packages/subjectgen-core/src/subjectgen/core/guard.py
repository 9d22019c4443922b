"""What a plugin's code raises becomes one message: where it was asked for, whose it is, what went wrong."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from subjectgen.core.errors import ComponentError, SubjectgenError

LONGEST = 500
"""Characters of a foreign message that are shown; the whole is in ``__cause__``."""


@contextmanager
def guarded(place: str, who: str, failed: str, *, validating: bool = False) -> Iterator[None]:
    """Run a component's own code.

    Our errors get the place in front and keep their kind. Anything else, ``SystemExit`` too, becomes a
    :class:`ComponentError` with the original as ``__cause__``. Memory that ran out and Ctrl-C pass: they are nobody's
    mistake in a file.

    Args:
        place: Start of the message: file, line and key path.
        who: The component with its distribution and version.
        failed: What it failed to do, such as ``"build"``.
        validating: Whether :func:`~subjectgen.core.validation.validate` runs inside, whose own errors already name
            the place of each key.
    """
    try:
        yield
    except SubjectgenError as error:
        if validating and isinstance(error.__context__, ValidationError):
            raise
        raise placed(error, place) from error
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise
        raise ComponentError(f"{place}{who} failed to {failed}: {in_one_line(error)}") from error


def placed(error: SubjectgenError, place: str) -> SubjectgenError:
    """The same error with a place in front; a plugin's own kind that takes other arguments becomes ours."""
    text = f"{place}{error}"
    try:
        return type(error)(text)
    except TypeError:
        ours = next(kind for kind in type(error).__mro__ if kind.__module__ == SubjectgenError.__module__)
        return ours(text)


def in_one_line(error: BaseException) -> str:
    """Kind and message of a foreign error, ``ValueError: too small``."""
    text = textwrap.shorten(str(error), LONGEST, placeholder=" ...")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the computer's or a device's. Looks at torch only where it is loaded already."""
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))
