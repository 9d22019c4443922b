"""Whether weights are those of the model that ``config.json`` describes: names and shapes, all of them or an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from subjectgen.core.errors import CheckpointError
from subjectgen.core.weights.headers import Shapes


def model_shapes(model: Any) -> Shapes:
    """Tensors that a torch module saves; made on torch's ``meta`` device it costs no memory."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_fit(where: str, found: Shapes, expected: Shapes) -> None:
    """Compare what files hold with what a model needs, before any of it is read.

    Args:
        where: Start of the message, such as ``str(checkpoint)``.
        found: From :func:`~subjectgen.core.weights.tensor_shapes` or ``Weights.shapes``.
        expected: From :func:`model_shapes`.

    Raises:
        CheckpointError: Tensors that are missing, unexpected or of another shape.
    """
    common = found.keys() & expected.keys()
    _refuse(
        where,
        misshapen=[(name, found[name], expected[name]) for name in common if found[name] != expected[name]],
        missing=expected.keys() - found.keys(),
        surplus=found.keys() - expected.keys(),
    )


def check_report(where: str, report: Mapping[str, Any], model: Any, *, exact_blocks: bool = True) -> None:
    """Refuse weights that transformers' loading report says were drawn at random, or blocks that were left out.

    Weights beside the blocks may be left over, as a language head is.

    Args:
        where: Start of the message, such as ``str(checkpoint)``.
        report: What ``from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)`` gave.
        model: The model; its blocks are its ``ModuleList``s.
        exact_blocks: Whether left-over weights in blocks are refused.

    Raises:
        CheckpointError: Weights that are missing, left over in blocks or of another shape.
    """
    parts = model.named_modules() if exact_blocks else ()
    blocks = tuple(f"{name}." for name, part in parts if type(part).__name__ == "ModuleList")
    _refuse(
        where,
        misshapen=report["mismatched_keys"],
        missing=report["missing_keys"],
        surplus=[key for key in report["unexpected_keys"] if key.removeprefix("model.").startswith(blocks)],
    )


def _refuse(where: str, *, misshapen: Iterable[Any], missing: Iterable[str], surplus: Iterable[str]) -> None:
    for name, found, expected in sorted(misshapen):
        raise CheckpointError(
            f"{where} does not fit its config.json: {name} has shape {list(found)}, expected {list(expected)}"
        )
    if names := sorted(missing):
        raise CheckpointError(f"{where} lacks {len(names)} weights of the model, the first is {names[0]!r}")
    if names := sorted(surplus):
        raise CheckpointError(
            f"{where} does not fit its config.json, which has no place for {len(names)} of its weights, the first is "
            f"{names[0]!r}"
        )
