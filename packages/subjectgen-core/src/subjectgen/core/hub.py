"""What the hub refuses, in one line that says what to do; for every part that reads checkpoints."""

from __future__ import annotations

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from subjectgen.core.errors import one_line

_REASONS: tuple[tuple[type[BaseException], str], ...] = (  # a subclass before its base
    (
        GatedRepoError,
        "the repository is gated: accept its terms on https://huggingface.co/{name}, then run `hf auth login`",
    ),
    (
        RepositoryNotFoundError,
        "the hub has no such repository, or it is private; expected a local path or owner/name as on the hub"
        " (private: run `hf auth login`)",
    ),
    (RevisionNotFoundError, "the repository has no {revision}; expected a branch, tag or commit of {name}"),
    (
        LocalEntryNotFoundError,
        "it is not in the local cache, and the hub was not reached; expected a local path, or a network"
        " (without one: `hf download {name}` elsewhere, then copy the folder)",
    ),
    (OfflineModeIsEnabled, "it is not in the local cache, and HF_HUB_OFFLINE is set"),
    (EntryNotFoundError, "it lacks a file, so it holds another kind of model or is incomplete ({error})"),
    (HFValidationError, "no hub id; expected a local path or owner/name"),
)


def hub_reason(error: BaseException | None, name: str, *, revision: str | None = None) -> str | None:
    """What the hub answered, wherever in the chain of errors it is; ``None`` if it is not the hub's.

    Args:
        error: What a library raised.
        name: The repository.
        revision: What was asked for, if anything.
    """
    wanted = f"revision {revision!r}" if revision else "such revision"
    while error is not None:
        for kind, reason in _REASONS:
            if isinstance(error, kind):
                return reason.format(name=name, revision=wanted, error=one_line(error)[:200])
        error = error.__cause__ or error.__context__
    return None
