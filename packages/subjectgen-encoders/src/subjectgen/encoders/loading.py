"""What the encoders' configs say about checkpoints, and the models that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pydantic import field_validator

from subjectgen.core import ChangesNothing, CheckpointError, Config, nearest
from subjectgen.core.weights import Checkpoint, load_processor, load_transformers

AttentionImplementation: TypeAlias = Literal["eager", "sdpa", "flash_attention_2"]
DeviceMap: TypeAlias = Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str]
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model")


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

    def located(self, subfolder: str = "") -> Checkpoint:
        """The checkpoint, or a folder of it."""
        return Checkpoint(
            name=self.checkpoint, subfolder=subfolder, revision=self.revision, local_files_only=self.local_files_only
        )


def transformers_class(name: str) -> Any:
    """A class of transformers by its name. Not imported with this module: a file is checked without it."""
    import transformers

    return getattr(transformers, name)


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Load the checkpoint's tokenizer; it must be a fast one, which knows where each token is in the text."""
    tokenizer = load_processor(transformers_class("AutoTokenizer"), checkpoint, *TOKENIZER_FILES)
    if not tokenizer.is_fast:
        raise CheckpointError(f"{checkpoint} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def load_model(
    model_class: str,
    checkpoint: Checkpoint,
    *,
    model_types: Sequence[str],
    dtype: str,
    attention: AttentionImplementation | None = None,
    device_map: DeviceMap | None = None,
) -> Any:
    """Load a transformers model with its attention kernel, spread over devices where that is asked for."""
    if (checkpoint.json("config.json") or {}).get("model_type") == "internvl_chat":
        raise CheckpointError(f"{checkpoint} is in its authors' own format; use the converted '-hf' checkpoint")
    given = {"attn_implementation": attention, "device_map": device_map}
    options: dict[str, Any] = {name: value for name, value in given.items() if value}
    model = load_transformers(
        transformers_class(model_class), checkpoint, model_types=model_types, dtype=dtype, **options
    )
    parts = {name for name, _ in model.named_modules()}
    for name in device_map if isinstance(device_map, dict) else ():  # transformers ignores one that the model lacks
        if name not in parts:
            raise CheckpointError(f"device_map: the model of {checkpoint} has no part {name!r}{nearest(name, parts)}")
    return model
