"""Layer ranges as an experiment writes them: ``0-28``, ``[0-9, 20-28]``, ``2-28:3``, ``-1``, ``all``, ``late``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, model_validator

from subjectgen.core import ChangesResults, ChangesWeights, ComponentError, Config, nearest

_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)(?:\s*:\s*([1-9]\d*))?")
_INDEX = re.compile(r"-?\d+")
_GROUPS = ("early", "middle", "late")
_WORDS = ("all", *_GROUPS)
_EXPECTED = "an index (5, -1), a range (0-28), every third of a range (2-28:3), all, early, middle, late, or a list"


def _terms(value: Any) -> tuple[str, ...]:
    """Split a range into its terms; ValueError (which pydantic reports with the key) if one is malformed."""
    terms = tuple(value) if isinstance(value, list | tuple) else (value,)
    for term in terms:
        if isinstance(term, bool) or not isinstance(term, int | str):
            raise ValueError(f"{term!r} is not a layer range; expected {_EXPECTED}")
        _check_term(str(term).strip())
    return tuple(str(term).strip() for term in terms)


def _check_term(term: str) -> None:
    found = _RANGE.fullmatch(term)
    if found and int(found[1]) > int(found[2]):
        raise ValueError(f"layer range {term!r} falls; did you mean '{found[2]}-{found[1]}'?")
    if not (found or _INDEX.fullmatch(term) or term in _WORDS):
        raise ValueError(f"{term!r} is not a layer range; expected {_EXPECTED}{nearest(term, _WORDS)}")


LayerRange: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_terms)]
"""A checked layer range; which hidden states it means depends on the model's depth (:func:`select_layers`)."""


class ModalityLayers(Config):
    """A layer range for text tokens and one for image tokens; a plain range stands for both."""

    text: ChangesWeights[LayerRange] = ("all",)
    """Hidden states read at text tokens."""
    image: ChangesWeights[LayerRange] = ("all",)
    """Hidden states read at image tokens."""

    @model_validator(mode="before")
    @classmethod
    def _plain_range_for_both(cls, value: Any) -> Any:
        if isinstance(value, Mapping | ModalityLayers):
            return value
        return {"text": value, "image": value}


class ZeroedLayers(Config):
    """Hidden states to zero at inference, per modality (Table A)."""

    text: ChangesResults[LayerRange] = ()
    """Zeroed at text tokens."""
    image: ChangesResults[LayerRange] = ()
    """Zeroed at image tokens."""


def layer_groups(depth: int) -> dict[str, range]:
    """Cut ``depth`` hidden states into early, middle and late.

    For 29 states the paper's 0-9, 10-19, 20-28 (section 4.3); any other depth in the same proportions.
    """
    first, second = round(depth * 10 / 29), round(depth * 20 / 29)
    return dict(zip(_GROUPS, (range(first), range(first, second), range(second, depth)), strict=True))


def select_layers(layers: Any, depth: int, *, key: str) -> tuple[int, ...]:
    """Turn a layer range into sorted indices of hidden states.

    Args:
        layers: a range as in YAML, or a checked :data:`LayerRange`.
        depth: number of hidden states, M + 1.
        key: the option's name, for messages.

    Raises:
        ComponentError: a malformed range, or one outside the model.
    """
    try:
        terms = _terms(layers)
    except ValueError as error:
        raise ComponentError(f"{key}: {error}") from error
    return tuple(sorted({index for term in terms for index in _expand(term, depth, key)}))


def _expand(term: str, depth: int, key: str) -> range:
    if term == "all":
        return range(depth)
    if term in _GROUPS:
        return _group(term, depth, key)
    found = _RANGE.fullmatch(term)
    if found:
        chosen = range(int(found[1]), int(found[2]) + 1, int(found[3] or 1))
    else:
        index = int(term)
        chosen = range(index, index + 1) if index >= 0 else range(index + depth, index + depth + 1)
    if chosen[0] < 0 or chosen[-1] >= depth:
        raise ComponentError(
            f"{key}: {term!r} is outside the model, which has {depth} hidden states; "
            f"valid are 0-{depth - 1}{_clipped(chosen, depth)}"
        )
    return chosen


def _group(name: str, depth: int, key: str) -> range:
    group = layer_groups(depth)[name]
    if not group:
        raise ComponentError(f"{key}: a model of {depth} hidden states has no {name!r} layers; valid are 0-{depth - 1}")
    return group


def _clipped(chosen: range, depth: int) -> str:
    if len(chosen) < 2 or chosen[0] >= depth:
        return ""
    return f"; did you mean '{chosen[0]}-{depth - 1}'?"
