"""Whatever a library raises while it reads a checkpoint, as one ``CheckpointError`` in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from subjectgen.core import CheckpointError, SubjectgenError
from subjectgen.core.errors import one_line
from subjectgen.core.hub import hub_reason


@contextmanager
def loading(what: str, checkpoint: str) -> Iterator[None]:
    """Turn whatever a library raises while reading ``checkpoint`` into a ``CheckpointError``."""
    try:
        yield
    except SubjectgenError:
        raise
    except Exception as error:  # safetensors, json, the hub and transformers each raise their own kinds
        reason = hub_reason(error, checkpoint) or one_line(error)
        raise CheckpointError(f"cannot load {what} from checkpoint {checkpoint!r}: {reason}") from error
