"""Read transformers models that look at pictures: safetensors only, all of the weights or an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

from subjectgen.core import CheckpointError, ComponentError, SubjectgenError, resolve_checkpoint

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""Data type of a model's weights."""


def load_frozen(
    auto_class: Any, checkpoint: str, kinds: Sequence[str], *, dtype: Precision, revision: str | None = None
) -> Any:
    """Load a model in evaluation mode, without gradients.

    Args:
        auto_class: Class of transformers that reads it.
        checkpoint: Folder, ``package:...`` or hub id.
        kinds: Values of ``model_type`` in ``config.json`` that are welcome.
        dtype: Data type of the weights.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: Nothing there, another kind of model, unreadable, or weights missing.
        ComponentError: The architecture needs a library that is not installed.
    """
    source = resolve_checkpoint(checkpoint, revision=revision)
    _check_kind(checkpoint, source, kinds, revision)
    with _reading("the model", checkpoint, progress=not Path(source).is_dir()):
        model, report = auto_class.from_pretrained(
            source,
            revision=revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    _check_complete(checkpoint, report)
    return model.requires_grad_(False).eval()


def load_processor(auto_class: Any, checkpoint: str, *, revision: str | None = None) -> Any:
    """Load what prepares a model's input.

    Raises:
        CheckpointError: Its files are missing or unreadable.
    """
    source = resolve_checkpoint(checkpoint, revision=revision)
    with _reading("the processor", checkpoint, progress=not Path(source).is_dir()):
        return auto_class.from_pretrained(source, revision=revision, trust_remote_code=False)


@contextmanager
def _reading(what: str, checkpoint: str, *, progress: bool) -> Iterator[None]:
    """Turn whatever a library raises into an error of ours; no progress bars unless there is a download."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # transformers lists at length which image library it does without
    if not progress:
        logging.disable_progress_bar()
    try:
        yield
    except SubjectgenError:
        raise
    except ImportError as error:
        raise ComponentError(f"checkpoint {checkpoint!r}: {what} needs a library: {_line(error)}") from error
    except Exception as error:  # safetensors, json, the hub and transformers each raise their own kinds
        raise CheckpointError(f"checkpoint {checkpoint!r}: {what} cannot be loaded: {_line(error)}") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def _check_kind(checkpoint: str, source: str, kinds: Sequence[str], revision: str | None) -> None:
    """Before any weight is read: transformers would draw what it does not find at random."""
    with _reading("config.json", checkpoint, progress=False):
        found, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    kind, expected = found.get("model_type"), " or ".join(map(repr, kinds))
    if kind is None:
        raise CheckpointError(f"checkpoint {checkpoint!r} has no config.json with a model_type, such as {expected}")
    if kind not in kinds:
        raise CheckpointError(f"checkpoint {checkpoint!r} holds a model of type {kind!r}; expected {expected}")


def _check_complete(checkpoint: str, report: Mapping[str, Any]) -> None:
    for problem in ("missing_keys", "mismatched_keys"):
        keys = sorted(map(str, report.get(problem) or ()))
        if keys:
            raise CheckpointError(
                f"checkpoint {checkpoint!r}: {len(keys)} {problem.replace('_', ' ')}, such as {keys[0]}"
            )
