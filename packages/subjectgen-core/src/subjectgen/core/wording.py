"""Types and constraints in plain words, for error messages and for ``subjectgen components``."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_SIMPLE = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def in_words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Describe a type with its constraints, e.g. ``a number in [0, 1]`` or ``one of 'drop', 'zero'``."""
    limits = _flatten(metadata)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(a, metadata) for a in arguments))
    if origin is Literal:
        return _one_of(arguments)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _one_of(member.value for member in annotation)
    if annotation in (int, float):
        return _SIMPLE[annotation] + _interval(limits) + _steps(limits)
    if annotation in _SIMPLE:
        return _SIMPLE[annotation] + (_length(limits, "characters") if annotation is str else "")
    return _container(annotation, origin, arguments, limits)


def field_in_words(field: FieldInfo) -> str:
    """Describe what a config field accepts."""
    return in_words(field.annotation, field.metadata)


def _container(annotation: Any, origin: Any, arguments: tuple[Any, ...], limits: Mapping[str, Any]) -> str:
    base = origin or annotation
    if base is Any or not isinstance(base, type):
        return "any value"
    if issubclass(base, BaseModel):
        return f"a mapping with keys {', '.join(base.model_fields)}" if base.model_fields else "an empty mapping"
    if issubclass(base, Mapping):
        return "a mapping" + (f" of {in_words(arguments[0])} to {in_words(arguments[1])}" if arguments else "")
    if issubclass(base, PurePath):
        return "a path"
    if base is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}: {', '.join(in_words(a) for a in arguments)}"
    if issubclass(base, (list, tuple, set, frozenset)) or base.__module__ == "collections.abc":
        length, item = _length(limits, "items"), in_words(arguments[0]) if arguments else ""
        return "a list" + length + (f"{', each' if length else ' of'} {item}" if item else "")
    return base.__name__


def _one_of(values: Iterable[Any]) -> str:
    choices = [repr(value) for value in values]
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"


def _flatten(metadata: Iterable[Any]) -> dict[str, Any]:
    """Limits by their short names, from annotated_types objects and pydantic's own."""
    names = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")
    metadata = [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]
    return {name: getattr(item, name) for item in metadata for name in names if getattr(item, name, None) is not None}


def _interval(limits: Mapping[str, Any]) -> str:
    lower, upper = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if lower is not None and upper is not None:
        return f" in {'[' if 'ge' in limits else '('}{lower:g}, {upper:g}{']' if 'le' in limits else ')'}"
    if lower is not None:
        return f" {'>=' if 'ge' in limits else '>'} {lower:g}"
    return f" {'<=' if 'le' in limits else '<'} {upper:g}" if upper is not None else ""


def _steps(limits: Mapping[str, Any]) -> str:
    return f", a multiple of {limits['multiple_of']:g}" if "multiple_of" in limits else ""


def _length(limits: Mapping[str, Any], unit: str) -> str:
    least, most = limits.get("min_length"), limits.get("max_length")
    if least is not None and most is not None:
        return f" of {least} to {most} {unit}" if least != most else f" of exactly {least} {unit}"
    if least is not None:
        return f" of at least {least} {unit}"
    return f" of at most {most} {unit}" if most is not None else ""
