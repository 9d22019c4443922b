"""A hub checkpoint as a folder on this machine, so that it is checked like any other."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from subjectgen.core import CheckpointError
from subjectgen.core.errors import one_line
from subjectgen.core.hub import hub_reason


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
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        hint = "" if "/" in config else "; did you mean subfolder 'transformer'?"
        return f"the repository has no {config}{hint}"
    return hub_reason(error, name, revision=revision) or one_line(error)
