"""Whatever a library raises while it reads a checkpoint, as one ``CheckpointError`` in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from subjectgen.core import CheckpointError, SubjectgenError


@contextmanager
def loading(what: str, checkpoint: str) -> Iterator[None]:
    """Turn whatever a library raises while reading ``checkpoint`` into a ``CheckpointError``."""
    try:
        yield
    except SubjectgenError:
        raise
    except Exception as error:  # safetensors, json, the hub and transformers each raise their own kinds
        reason = _hub_reason(error, checkpoint) or " ".join(str(error).split())[:400] or type(error).__name__
        raise CheckpointError(f"cannot load {what} from checkpoint {checkpoint!r}: {reason}") from error


def _hub_reason(error: BaseException | None, checkpoint: str) -> str | None:
    """What the hub answered, in one line, wherever in the chain of errors it is; ``None`` if it is not the hub's."""
    while error is not None:
        for kind, reason in _HUB_REASONS:
            if isinstance(error, kind):
                return reason.format(checkpoint=checkpoint, error=" ".join(str(error).split())[:200])
        error = error.__cause__ or error.__context__
    return None


_HUB_REASONS: tuple[tuple[type[BaseException], str], ...] = (  # a subclass before its base
    (
        GatedRepoError,
        "the repository is gated: accept its terms on https://huggingface.co/{checkpoint}, then run `hf auth login`",
    ),
    (
        RepositoryNotFoundError,
        "the hub has no such repository, or it is private; expected a folder or owner/name as on the hub"
        " (private: run `hf auth login`)",
    ),
    (RevisionNotFoundError, "the repository has no such revision; expected a branch, tag or commit of {checkpoint}"),
    (
        LocalEntryNotFoundError,
        "it is not in the local cache, and the hub was not reached; expected a folder, or a network"
        " (without one: `hf download {checkpoint}` elsewhere, then copy the folder)",
    ),
    (OfflineModeIsEnabled, "it is not in the local cache, and HF_HUB_OFFLINE is set"),
    (EntryNotFoundError, "it lacks a file, so it holds another kind of model or is incomplete ({error})"),
)
