"""Models of transformers and diffusers from a checkpoint that fits them weight for weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from subjectgen.core.weights.checkpoint import Checkpoint
from subjectgen.core.weights.fit import check_fit, check_report, model_shapes
from subjectgen.core.weights.reading import quiet, reading

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""Data type of a model's weights."""
_OURS: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
"""Files were fetched and looked at before; no library asks the hub by itself, or reads anything else."""


def load_transformers(
    model_class: Any,
    checkpoint: Checkpoint,
    *,
    model_types: Sequence[str],
    dtype: Any,
    exact_blocks: bool = True,
    **options: Any,
) -> Any:
    """Load a transformers model; what its loading report calls missing or of another shape is an error.

    Args:
        model_class: Class that reads it, such as ``CLIPVisionModel`` or ``AutoModel``.
        checkpoint: Where it lies.
        model_types: Values of ``model_type`` in ``config.json`` that are welcome.
        dtype: Torch's data type or its name; ``auto`` is the one that the weights were saved in.
        exact_blocks: Refuse checkpoints with weights in their blocks that the model has no place for.
        options: More for ``from_pretrained``, such as ``device_map``.

    Raises:
        CheckpointError: Nothing there, another kind of model, unreadable, or weights that do not fit.
        ComponentError: The architecture needs a library that is not installed.
    """
    checkpoint.config("model_type", model_types)
    weights = checkpoint.weights("model")
    with reading(model_class.__name__, str(checkpoint)), quiet():
        model, report = model_class.from_pretrained(
            weights.folder,
            dtype=_dtype(dtype),
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named and refused below; transformers would only say that some are
            **_OURS,
            **options,
        )
    check_report(str(checkpoint), report, model, exact_blocks=exact_blocks)
    return model


def load_diffusers(model_class: Any, checkpoint: Checkpoint, *, dtype: Any) -> Any:
    """Load a diffusers model whose tensors are compared with its ``config.json`` before any is read.

    Args:
        model_class: Class of diffusers; ``config.json`` must name it.
        checkpoint: Where it lies.
        dtype: Torch's data type, or its name.

    Raises:
        CheckpointError: Nothing there, another kind of model, unreadable, or weights that do not fit.
    """
    import torch

    name = model_class.__name__
    values = checkpoint.config("_class_name", [name])
    with reading(f"{name}: config.json describes none", str(checkpoint)), quiet(), torch.device("meta"):
        expected = model_shapes(model_class.from_config(values))
    weights = checkpoint.weights("diffusion_pytorch_model")
    check_fit(str(checkpoint), weights.shapes(), expected)
    with reading(name, str(checkpoint)), quiet():
        return model_class.from_pretrained(weights.folder, torch_dtype=_dtype(dtype), **_OURS)


def load_processor(auto_class: Any, checkpoint: Checkpoint, *needed: str) -> Any:
    """Load what prepares a transformers model's input: a tokenizer, an image processor or both.

    Args:
        auto_class: Class that reads it, such as ``AutoTokenizer``.
        checkpoint: Where it lies.
        needed: Files of which it must have one; transformers makes an empty tokenizer without a vocabulary.

    Raises:
        CheckpointError: Files that are missing or unreadable.
        ComponentError: It needs a library that is not installed.
    """
    name = auto_class.__name__
    folder = checkpoint.need(f"files of {name}", *needed).parent
    with reading(name, str(checkpoint)), quiet():
        return auto_class.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _dtype(dtype: Any) -> Any:
    import torch

    return getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
