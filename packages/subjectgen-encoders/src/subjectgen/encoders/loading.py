"""Read checkpoints: safetensors only, no code from the checkpoint, every failure a ``CheckpointError``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from pydantic import field_validator
from torch import nn
from transformers import AutoTokenizer
from transformers.utils import logging

from subjectgen.core import ChangesNothing, CheckpointError, Config, resolve_checkpoint
from subjectgen.core.errors import nearest
from subjectgen.encoders.hub_errors import loading
from subjectgen.encoders.weight_files import TRANSFORMERS, check_weight_files, shards, weight_files

AttentionImplementation: TypeAlias = Literal["eager", "sdpa", "flash_attention_2"]
DeviceMap: TypeAlias = Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str]


class CheckpointConfig(Config):
    """Where weights come from; base of the encoders' configs."""

    checkpoint: ChangesNothing[str]
    """A local folder, ``package:module/path`` for weights shipped in a package, or a Hugging Face hub id."""
    revision: ChangesNothing[str | None] = None
    """Branch, tag or commit of a hub id; ``None`` is its main branch."""
    local_files_only: ChangesNothing[bool] = False
    """Never reach for the network: a hub id must already be in the cache."""

    @field_validator("checkpoint")
    @classmethod
    def _names_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("checkpoint is empty; expected a folder, package:module/path or a hub id")
        return value


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


def load_files(
    config: CheckpointConfig, names: Sequence[str], subfolder: str = "", *, needed: bool = False
) -> list[Path]:
    """Those of the files that the checkpoint has, downloaded where it is on the hub.

    Args:
        config: Where to look.
        names: Names in the folder.
        subfolder: Folder in the checkpoint.
        needed: Finding none is an error where the hub was not reached, which may have one.
    """
    name, keywords = source(config, subfolder)
    if Path(name).is_dir():
        return [file for file in (Path(name) / subfolder / each for each in names) if file.is_file()]
    found: list[Path] = []
    unreached: LocalEntryNotFoundError | None = None
    with loading(names[0], config.checkpoint):
        for each in names:
            try:
                found.append(Path(hf_hub_download(name, each, **{**keywords, "subfolder": subfolder or None})))
            except LocalEntryNotFoundError as error:
                unreached = error
            except EntryNotFoundError:
                continue
        if needed and unreached and not found:
            raise unreached
    return found


def load_json(
    config: CheckpointConfig, filename: str, subfolder: str = "", *, needed: bool = False
) -> dict[str, Any] | None:
    """Read one JSON file of the checkpoint, or ``None`` when it has no such file."""
    for file in load_files(config, [filename], subfolder, needed=needed):
        with loading(filename, config.checkpoint):
            values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise CheckpointError(f"{file}: expected a JSON object, found a {type(values).__name__}")
        return values
    return None


TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model")


def load_tokenizer(config: CheckpointConfig, subfolder: str = "") -> Any:
    """Load the checkpoint's tokenizer; it must be a fast one, which knows where each token is in the text.

    Without a vocabulary transformers would make an empty tokenizer of that class, and no noise about it.
    """
    where = place(config, subfolder)
    if not load_files(config, TOKENIZER_FILES, subfolder, needed=True):
        raise CheckpointError(
            f"{where} has no vocabulary{_instead(config, subfolder)}; expected one of {', '.join(TOKENIZER_FILES)}"
        )
    name, keywords = source(config, subfolder)
    with loading(f"tokenizer {subfolder}".strip(), config.checkpoint):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **keywords)
    if not tokenizer.is_fast:
        raise CheckpointError(f"{where} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def load_config(config: CheckpointConfig, key: str, expected: Sequence[str], subfolder: str = "") -> dict[str, Any]:
    """Read ``config.json`` and check that it describes the wanted architecture, before any weight is read.

    Args:
        config: Where to look.
        key: Where the architecture stands: ``model_type`` for transformers, ``_class_name`` for diffusers.
        expected: What may stand there.
        subfolder: Folder in the checkpoint.

    Raises:
        CheckpointError: No such file, or it names something else.
    """
    where, wanted = place(config, subfolder), " or ".join(map(repr, expected))
    values = load_json(config, "config.json", subfolder, needed=True)
    if values is None:
        raise CheckpointError(
            f"{where} has no config.json{_instead(config, subfolder)}; expected a model of type {wanted}"
        )
    if values.get(key) not in expected:
        hint = " (use the converted '-hf' checkpoint)" if values.get(key) == "internvl_chat" else ""
        raise CheckpointError(f"{where} holds a model of type {values.get(key)!r}, expected {wanted}{hint}")
    return values


def load_weights(config: CheckpointConfig, stem: str, subfolder: str = "") -> Path:
    """Folder with all weight files of a model, whole, downloaded where the checkpoint is on the hub.

    Raises:
        CheckpointError: No weights in safetensors, or a file that is missing, truncated or damaged.
    """
    names = weight_files(stem)
    for file in load_files(config, names, subfolder, needed=True)[:1]:
        load_files(config, shards(file), subfolder)
        check_weight_files(file)
        return file.parent
    raise CheckpointError(
        f"{place(config, subfolder)} has no weights: expected {' or '.join(names)}{_instead(config, subfolder)}; "
        "pickles are never read"
    )


def place(config: CheckpointConfig, subfolder: str) -> str:
    """What a message calls a folder of a checkpoint."""
    return f"checkpoint {config.checkpoint!r}{f', folder {subfolder!r},' if subfolder else ''}"


def _instead(config: CheckpointConfig, subfolder: str) -> str:
    """What a local folder holds instead of a file."""
    folder = Path(source(config, subfolder)[0]) / subfolder
    if not folder.is_dir():
        return ""
    return f", found {', '.join(sorted(path.name for path in folder.iterdir())[:12]) or 'nothing'}"


def load_model(
    model_class: Any,
    config: CheckpointConfig,
    *,
    model_types: tuple[str, ...],
    dtype: str,
    attention: AttentionImplementation | None = None,
    device_map: DeviceMap | None = None,
    subfolder: str = "",
) -> Any:
    """Load a transformers model whose checkpoint fits it weight for weight."""
    load_config(config, "model_type", model_types, subfolder)
    folder = load_weights(config, TRANSFORMERS, subfolder)
    with loading(model_class.__name__, config.checkpoint), quiet():
        model, report = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named and refused below; transformers would only say that some are
            dtype=torch_dtype(dtype),
            **({"attn_implementation": attention} if attention else {}),
            **({"device_map": device_map} if device_map else {}),
        )
    check_complete(model, report, config.checkpoint)
    _check_parts(device_map, model, config.checkpoint)
    return model


def _check_parts(device_map: DeviceMap | None, model: Any, checkpoint: str) -> None:
    """Transformers ignores a name in the map that no part of the model has."""
    parts = {name for name, _ in model.named_modules()}
    for name in device_map if isinstance(device_map, dict) else ():
        if name not in parts:
            raise CheckpointError(f"device_map: the model of {checkpoint!r} has no part {name!r}{nearest(name, parts)}")


def check_complete(model: nn.Module, report: Mapping[str, Any], checkpoint: str) -> None:
    """Raise when a library's loading report tells of weights that it drew at random, or of blocks that it left out.

    Weights beside the blocks may be left over, as the language head is.
    """
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"checkpoint {checkpoint!r} does not fit its config.json: {name} has shape {list(found)}, "
            f"expected {list(expected)}"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"checkpoint {checkpoint!r} lacks {len(missing)} weights of the model, the first is {missing[0]!r}"
        )
    blocks = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, nn.ModuleList))
    surplus = sorted(key for key in report["unexpected_keys"] if key.removeprefix("model.").startswith(blocks))
    if surplus:
        raise CheckpointError(
            f"checkpoint {checkpoint!r} does not fit its config.json, which has no place for {len(surplus)} of its "
            f"weights, the first is {surplus[0]!r}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' own tables of weights, which :func:`check_complete` reads, and progress bars."""
    levels, bars = (logging.get_verbosity(), diffusers_logging.get_verbosity()), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(levels[0])
        diffusers_logging.set_verbosity(levels[1])
        if bars:
            logging.enable_progress_bar()
