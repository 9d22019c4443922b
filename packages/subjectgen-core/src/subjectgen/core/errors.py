"""The few exceptions a user can meet. The command line prints them in one line and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SubjectgenError(Exception):
    """A mistake that a user can repair: the message says where, what was expected and what to do."""


class ConfigError(SubjectgenError):
    """A wrong experiment file: names file, key path, value, expectation and the nearest valid choice."""


class ComponentError(SubjectgenError):
    """A component that is unknown, ambiguous, broken or does not fit its neighbours."""


class CheckpointError(SubjectgenError):
    """Weights that are missing, truncated, tampered with or of another shape."""


class InputError(SubjectgenError):
    """A prompt, reference image or option that cannot be used."""


class SampleError(InputError):
    """One sample of a data set that cannot be read: training passes over it, counts it and names it."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest choice but the word itself, or nothing when none is close."""
    found = difflib.get_close_matches(word, [choice for choice in choices if choice != word], n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def one_line(error: BaseException) -> str:
    """What an error says, for a message of one line."""
    return " ".join(str(error).split())[:400] or type(error).__name__
