"""Validation whose errors say file and line, key path, value, what was expected and the nearest valid key."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, to_jsonable_python

from subjectgen.core.errors import ConfigError, nearest
from subjectgen.core.roles import role
from subjectgen.core.wording import field_in_words, in_words

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[str | int, ...]


def validate(
    model: type[Model],
    values: Mapping[str, Any],
    *,
    file: str | None = None,
    where: str = "",
    lines: Mapping[str, str] | None = None,
) -> Model:
    """Build ``model`` from plain values.

    Args:
        model: A pydantic model, usually a component's ``Config``.
        values: What the file says at ``where``.
        file: The file the values came from.
        where: Key path of ``values`` inside the file, ``""`` at its top.
        lines: ``file:line`` of each key path, as :func:`subjectgen.core.config.load` gives them.

    Raises:
        ConfigError: One line per wrong key: ``x.yaml:12: schedule.tau1: got 'high'; expected a number in [0, 1]``.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = _by_key(model, values, error.errors())
        messages = (f"{locate(join(where, *path), file, lines)}{text}" for path, text in problems.items())
        raise ConfigError("\n".join(messages)) from None


def describe(model: type[BaseModel]) -> list[dict[str, Any]]:
    """List the keys of a config with type, default, meaning and role; nested configs follow with dotted keys."""
    return list(_rows(model, ""))


def join(where: str, *path: str | int) -> str:
    """Append steps to a dotted key path."""
    return ".".join(str(step) for step in (where, *path) if step != "")


def locate(path: str, file: str | None = None, lines: Mapping[str, str] | None = None) -> str:
    """Return the start of an error message: ``file:line: key.path: ``, as far as each part is known."""
    place, key = None, path
    while place is None and key:
        place = (lines or {}).get(key)
        key = key.rpartition(".")[0]
    return "".join(f"{part}: " for part in (place or file, path) if part)


def shown(value: Any, limit: int = 60) -> str:
    """A value as an error message shows it: never longer than a line's worth."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


# ---------------------------------------------------------------------------------------- pydantic's errors


def _by_key(model: type[BaseModel], values: Any, errors: Sequence[ErrorDetails]) -> dict[Path, str]:
    """One message per key. Each member of a union reports for itself: the deepest key says it best."""
    found: dict[Path, ErrorDetails] = {}
    for error in errors:
        found.setdefault(_real_path(values, error), error)
    deepest = [path for path in found if not any(path == other[: len(path)] for other in found if other != path)]
    return {path: _message(_slot(model, path), path, found[path]) for path in deepest}


def _real_path(values: Any, error: ErrorDetails) -> Path:
    """Pydantic's location without the names of union members and validators it puts between the keys."""
    path: list[str | int] = []
    location = error["loc"]
    for position, step in enumerate(location):
        missing = error["type"] == "missing" and position == len(location) - 1
        inside = _holds(values, step)
        if inside or missing:
            path.append(step)
        values = values[step] if inside else values
    return tuple(path)


def _holds(values: Any, step: str | int) -> bool:
    if isinstance(values, Mapping):
        return step in values
    return isinstance(values, (list, tuple)) and isinstance(step, int) and step < len(values)


def _message(slot: _Slot, path: Path, error: ErrorDetails) -> str:
    given = error["input"]
    if error["type"] == "missing":
        return f"missing; expected {slot.words}"
    if error["type"] == "extra_forbidden":
        keys = list(slot.owner.model_fields) if slot.owner else []
        return f"unknown key{nearest(str(path[-1]), keys)} (valid keys: {', '.join(keys) or 'none'})"
    if error["type"] in ("value_error", "assertion_error"):  # a validator of the component, in its own words
        reason = str(error.get("ctx", {}).get("error", error["msg"]))
        return reason if isinstance(given, (Mapping, BaseModel)) else f"got {shown(given)}; {reason}"
    expected = slot.words or f"{error['msg'][0].lower()}{error['msg'][1:]}"
    hint = nearest(given, slot.choices) if isinstance(given, str) else ""
    return f"got {shown(given)}; expected {expected}{hint}"


# ------------------------------------------------------------------------------------ walking through models


class _Slot(NamedTuple):
    """What a model expects at a key path."""

    owner: type[BaseModel] | None
    """The model that the last key belongs to, or should."""
    annotation: Any
    words: str

    @property
    def choices(self) -> list[str]:
        """The words a closed list of values accepts."""
        return [value for value in get_args(self.annotation) if isinstance(value, str)]


def _slot(model: type[BaseModel], path: Path) -> _Slot:
    slot = _Slot(None, model, in_words(model))
    for step in path:
        slot = _inside(slot.annotation, step)
    return slot


def _inside(annotation: Any, step: str | int) -> _Slot:
    """One step down: a model's field, a list's item, a mapping's value; of a union, the first that has it."""
    arguments = get_args(annotation)
    base = get_origin(annotation) or annotation
    if base is Annotated:
        return _inside(arguments[0], step)
    if base in (Union, types.UnionType):
        found = [_inside(argument, step) for argument in arguments]
        return next((slot for slot in found if slot.owner or slot.words), _Slot(None, None, ""))
    if isinstance(base, type) and issubclass(base, BaseModel):
        field = base.model_fields.get(str(step))
        return _Slot(base, field.annotation, field_in_words(field)) if field else _Slot(base, None, "")
    if not arguments:
        return _Slot(None, None, "")
    position = 0 if isinstance(step, int) else -1
    if base is tuple and isinstance(step, int) and Ellipsis not in arguments:
        position = min(step, len(arguments) - 1)
    return _Slot(None, arguments[position], in_words(arguments[position]))


def _rows(model: type[BaseModel], prefix: str) -> Iterator[dict[str, Any]]:
    for name, field in model.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield {
            "key": join(prefix, name),
            "type": field_in_words(field),
            "required": field.is_required(),
            "default": to_jsonable_python(default, fallback=str),
            "doc": field.description or "",
            "changes": _changes(field),
        }
        inner = _model_inside(field.annotation)
        if inner is not None and inner is not model:
            yield from _rows(inner, join(prefix, name))


def _changes(field: FieldInfo) -> str | None:
    """What another value changes, as the field says."""
    found = role(field)
    return None if found is None else found.value


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    """The first model that a type mentions: ``X``, ``X | None``, ``list[X]``, ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_inside(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)
