"""Read checkpoints: safetensors only, no code from the checkpoint, every failure a ``CheckpointError``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from pydantic import Field
from transformers import AutoTokenizer, PreTrainedConfig
from transformers.utils import cached_file, logging

from subjectgen.core import CheckpointError, Config, SubjectgenError, resolve_checkpoint

AttentionImplementation: TypeAlias = Literal["eager", "sdpa", "flash_attention_2"]


class CheckpointConfig(Config):
    """Where weights come from; base of the encoders' configs."""

    checkpoint: str = Field(min_length=1)
    """A local folder, ``package:module/path`` for weights shipped in a package, or a Hugging Face hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; ``None`` is its main branch."""
    local_files_only: bool = False
    """Never reach for the network: a hub id must already be in the cache."""


@contextmanager
def loading(what: str, checkpoint: str) -> Iterator[None]:
    """Turn whatever a library raises while reading ``checkpoint`` into a ``CheckpointError``."""
    try:
        yield
    except SubjectgenError:
        raise
    except Exception as error:  # safetensors, json, the hub and transformers each raise their own kinds
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise CheckpointError(f"cannot load {what} from checkpoint {checkpoint!r}: {reason}") from error


def source(config: CheckpointConfig, subfolder: str = "") -> tuple[str, dict[str, Any]]:
    """Name and keywords for every ``from_pretrained``: resolved folder or hub id, subfolder, revision."""
    name = resolve_checkpoint(config.checkpoint, revision=config.revision)
    if subfolder and Path(name).is_dir() and not (Path(name) / subfolder).is_dir():
        present = sorted(p.name for p in Path(name).iterdir() if p.is_dir()) or "none"
        raise CheckpointError(f"checkpoint {config.checkpoint!r} has no folder {subfolder!r}; folders there: {present}")
    return name, {
        "subfolder": subfolder,
        "revision": config.revision,
        "local_files_only": config.local_files_only,
    }


def torch_dtype(name: str) -> torch.dtype | Literal["auto"]:
    """``"bfloat16"`` -> ``torch.bfloat16``; ``"auto"`` stays: the type the checkpoint was saved in."""
    return "auto" if name == "auto" else getattr(torch, name)


def load_json(config: CheckpointConfig, filename: str) -> dict[str, Any] | None:
    """Read one JSON file of the checkpoint, or ``None`` when it has no such file."""
    name, keywords = source(config)
    with loading(filename, config.checkpoint):
        path = cached_file(name, filename, _raise_exceptions_for_missing_entries=False, **keywords)
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def load_tokenizer(config: CheckpointConfig, subfolder: str = "") -> Any:
    """Load the checkpoint's tokenizer; it must be a fast one, which knows where each token is in the text."""
    name, keywords = source(config, subfolder)
    with loading(f"tokenizer {subfolder}".strip(), config.checkpoint):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **keywords)
    if not tokenizer.is_fast:
        raise CheckpointError(f"checkpoint {config.checkpoint!r} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def load_model_config(config: CheckpointConfig, model_types: tuple[str, ...], subfolder: str = "") -> dict[str, Any]:
    """Read ``config.json`` and check that it describes the wanted architecture, before any weight is read."""
    name, keywords = source(config, subfolder)
    with loading("config.json", config.checkpoint):
        found, _ = PreTrainedConfig.get_config_dict(name, **keywords)
    model_type = found.get("model_type")
    if model_type not in model_types:
        hint = " (use the converted '-hf' checkpoint)" if model_type == "internvl_chat" else ""
        raise CheckpointError(
            f"checkpoint {config.checkpoint!r}{f', folder {subfolder!r}' if subfolder else ''} holds a model of type "
            f"{model_type!r}, expected {' or '.join(map(repr, model_types))}{hint}"
        )
    return found


def load_model(
    model_class: Any,
    config: CheckpointConfig,
    *,
    model_types: tuple[str, ...],
    dtype: str,
    attention: AttentionImplementation | None = None,
    subfolder: str = "",
) -> Any:
    """Load a transformers model and refuse one whose file lacks any weight (transformers would draw it at random)."""
    load_model_config(config, model_types, subfolder)
    name, keywords = source(config, subfolder)
    with loading(model_class.__name__, config.checkpoint), _quiet(progress=not Path(name).is_dir()):
        model, report = model_class.from_pretrained(
            name,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch_dtype(dtype),
            **({"attn_implementation": attention} if attention else {}),
            **keywords,
        )
    check_complete(report, config.checkpoint)
    return model


def check_complete(report: Mapping[str, Any], checkpoint: str) -> None:
    """Raise when a loading report names missing weights."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"checkpoint {checkpoint!r} lacks {len(missing)} weights of the model, the first is {missing[0]!r}"
        )


@contextmanager
def _quiet(*, progress: bool) -> Iterator[None]:
    """Hide transformers' table of unused weights (the language head), and progress bars unless there is a download."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not progress:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
