"""A hub checkpoint as a folder on this machine, so that it is checked like any other."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from subjectgen.core import CheckpointError

REASONS: tuple[tuple[type[Exception], str], ...] = (  # a subclass before its base
    (
        GatedRepoError,
        "the repository is gated: accept its terms on https://huggingface.co/{name}, then run `hf auth login`",
    ),
    (
        RepositoryNotFoundError,
        "the hub has no such repository, or it is private; expected a folder, a file or owner/name as on the hub"
        " (private: run `hf auth login`)",
    ),
    (RevisionNotFoundError, "the repository has no revision {revision!r}; expected a branch, tag or commit"),
    (
        LocalEntryNotFoundError,
        "it is not in the local cache, and the hub was not reached; expected a folder, a file, or a network",
    ),
    (EntryNotFoundError, "the repository has no {config}{hint}"),
    (HFValidationError, "no hub id; expected a folder, a file or owner/name"),
)


def downloaded(name: str, *, subfolder: str | None, revision: str | None) -> Path:
    """Download configuration and safetensors of a model, or take them from the cache; its folder.

    Raises:
        CheckpointError: what the hub refuses, in one line.
    """
    inside = f"{subfolder}/" if subfolder else ""
    config = f"{inside}config.json"
    try:
        hf_hub_download(name, config, revision=revision)  # before gigabytes of another model
        wanted = [config, f"{inside}*.safetensors", f"{inside}*.safetensors.index.json"]
        deeper = f"{inside}*/*"  # patterns do not stop at folders
        root = snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=deeper)
    except Exception as error:  # the hub's, the network's, the disk's
        raise CheckpointError(f"checkpoint {name!r}: {_reason(error, name, config, revision)}") from error
    return Path(root) / inside


def _reason(error: Exception, name: str, config: str, revision: str | None) -> str:
    hint = "" if "/" in config else "; did you mean subfolder 'transformer'?"
    for kind, reason in REASONS:
        if isinstance(error, kind):
            return reason.format(name=name, config=config, revision=revision, hint=hint)
    return " ".join(str(error).split())[:400] or type(error).__name__
