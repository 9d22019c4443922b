"""Files of a hub repository as a folder on this machine: the cache first, then the hub, and one line if it refuses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from subjectgen.core.errors import CheckpointError, one_line

_LOGGER = logging.getLogger(__name__)
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja")
"""Files that belong to a model beside its weights; they are few, and fetched together."""


class NotAskedError(CheckpointError):
    """Not in the local cache, and the hub was not asked or not reached: it may have the file."""


def find_on_hub(
    name: str, files: Sequence[str], *, subfolder: str, revision: str | None, local_only: bool, enough: int = 1
) -> list[Path]:
    """Those of the files that the repository has: from the cache, or downloaded, with all small files beside them.

    Args:
        name: ``owner/model``.
        files: Names in the folder.
        subfolder: Folder in the repository, or an empty string.
        revision: Branch, tag or commit; ``None`` is the main branch.
        local_only: Never ask the hub.
        enough: The hub is asked if fewer of them are cached.

    Raises:
        CheckpointError: What the hub refuses, in one line.
        NotAskedError: It was not asked or not reached.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    inside = f"{subfolder}/" if subfolder else ""
    wanted = [f"{inside}{file}" for file in files]
    try:
        cached = [try_to_load_from_cache(name, file, revision=revision) for file in wanted]
    except HFValidationError as error:
        raise CheckpointError(f"checkpoint {name!r}: no hub id; expected a local path or owner/name") from error
    found = [Path(path) for path in cached if isinstance(path, str)]
    if len(found) >= enough or None not in cached:  # a file known not to be there is some other object
        return found
    if local_only or constants.HF_HUB_OFFLINE:
        who = "local_files_only" if local_only else "HF_HUB_OFFLINE"
        raise NotAskedError(f"checkpoint {name!r}: not in the local cache, and {who} is set; {_get(name, inside)}")
    root = _download(name, inside, wanted, revision or constants.DEFAULT_REVISION)
    return [root / file for file in wanted if (root / file).is_file()]


def _download(name: str, inside: str, wanted: list[str], revision: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    _LOGGER.warning("asking the hub for %s, revision %s: %s is not in the local cache", name, revision, wanted[0])
    try:
        # snapshot_download alone would make do with a part that is cached
        HfApi().model_info(name, revision=revision, timeout=10)
        patterns = [*wanted, *(f"{inside}{pattern}" for pattern in _SMALL)]
        deeper = f"{inside}*/*"  # patterns do not stop at folders
        root = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=deeper))
        for file in wanted:
            if not (root / file).is_file():
                with suppress(EntryNotFoundError):  # asked for by name, so that the cache keeps that there is none
                    hf_hub_download(name, file, revision=revision)
        return root
    except HfHubHTTPError as error:
        raise CheckpointError(f"checkpoint {name!r}: {_refusal(error, name, revision)}") from error
    except Exception as error:  # the network's or the disk's, each library's own
        raise NotAskedError(
            f"checkpoint {name!r}: not in the local cache, and the hub was not reached ({one_line(error)[:120]});"
            f" expected a local path, or a network; {_get(name, inside)}"
        ) from error


def _refusal(error: Exception, name: str, revision: str) -> str:
    """What the hub answered, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    reasons = {  # a subclass before its base
        GatedRepoError: f"the repository is gated: accept its terms on https://huggingface.co/{name}, then run"
        " `hf auth login`",
        RepositoryNotFoundError: "the hub has no such repository, or it is private; expected a local path or owner/name"
        " as on the hub (private: run `hf auth login`)",
        RevisionNotFoundError: f"the repository has no revision {revision!r}; expected a branch, tag or commit",
    }
    return next((reason for kind, reason in reasons.items() if isinstance(error, kind)), one_line(error))


def _get(name: str, inside: str) -> str:
    """How to get what is needed, and no more, elsewhere."""
    files = f'--include "{inside}*"' if inside else '--exclude "*/*" "*.bin"'
    return f"or elsewhere: hf download {name} {files}, then copy the folder"
