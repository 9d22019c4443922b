"""Whatever a library raises while it reads a checkpoint, as one error in one line; and without its tables and bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from subjectgen.core.errors import CheckpointError, ComponentError, SubjectgenError, one_line
from subjectgen.core.guard import out_of_memory


@contextmanager
def reading(what: str, where: str) -> Iterator[None]:
    """Turn whatever is raised inside into a ``CheckpointError``; memory that ran out passes as it is.

    Args:
        what: What is read, such as the model's class.
        where: What a message calls the checkpoint, ``str(checkpoint)``.

    Raises:
        CheckpointError: It cannot be read.
        ComponentError: A library that the model needs is not installed.
    """
    try:
        yield
    except SubjectgenError:
        raise
    except ImportError as error:
        raise ComponentError(f"{where}: {what} needs a library: {one_line(error)}") from error
    except Exception as error:  # safetensors, json, transformers and diffusers each raise their own kinds
        if out_of_memory(error):
            raise
        raise CheckpointError(f"{where}: cannot load {what}: {one_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' and diffusers' tables of weights, warnings and progress bars: what they say is checked."""
    names = ("transformers.utils.logging", "diffusers.utils.logging")
    loggings: list[Any] = [sys.modules[name] for name in names if name in sys.modules]
    before = [(logging, logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in loggings]
    for logging in loggings:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, level, bars in before:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
