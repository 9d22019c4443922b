"""Models without weights, for ``subjectgen plan``: their sizes come from ``config.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from subjectgen.core import CheckpointError
from subjectgen.encoders.loading import transformers_class
from subjectgen.encoders.preprocessing import Preprocessing

IMAGE = "<image>"


@runtime_checkable
class Sources(Protocol):
    """What ``planned`` of a component is given instead of a checkpoint's files."""

    def config(self, checkpoint: str, subfolder: str = "") -> dict[str, Any]:
        """``config.json``."""
        ...

    def preprocessor(self, checkpoint: str) -> dict[str, Any]:
        """``preprocessor_config.json``."""
        ...

    def tokenizer(self, *, names: Mapping[str, int] | None = None, image: str = "", end: int | None = None) -> Any:
        """A tokenizer with one token per word; ``end``: the id of a token after every text."""
        ...


def new_model(model_class: str, values: Mapping[str, Any], *, model_types: tuple[str, ...], dtype: str) -> Any:
    """A transformers model with new weights on torch's default device.

    Args:
        model_class: Name of the class in transformers; it knows its own config's class.
        values: Content of ``config.json``.
        model_types: Architectures that are welcome.
        dtype: Data type of the weights; ``auto`` is the one that ``values`` names.

    Raises:
        CheckpointError: Another architecture.
    """
    if values.get("model_type") not in model_types:
        expected = " or ".join(map(repr, model_types))
        raise CheckpointError(f"config.json is of a model of type {values.get('model_type')!r}, expected {expected}")
    found = str(values.get("dtype") or values.get("torch_dtype") or "float32")
    kind = transformers_class(model_class)
    model = kind(kind.config_class.from_dict(dict(values)))
    return model.to(getattr(torch, found if dtype == "auto" else dtype))


def planned_preprocessing(values: dict[str, Any]) -> Preprocessing:
    """Sizes as the checkpoint has them; colours do not matter here."""
    return Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, scale=1.0, values=values)
