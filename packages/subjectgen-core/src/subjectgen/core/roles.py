"""What a config's field changes: every field of every config says one of three.

``weights``: trained parts mean something else under another value, so they are refused under it. ``results``: numbers
change, and the value is free to choose when generating. ``nothing``: numbers stay (devices, workers, batch sizes,
paths). A field that says nothing counts as ``weights``; contracts and a test of this repository do not let it.

.. code-block:: python

    class Config(subjectgen.core.Config):
        heads: ChangesWeights[int | None] = None
        steps: ChangesResults[int] = 25
        batch_size: ChangesNothing[int] = 32
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

Value = TypeVar("Value")


class Changes(Enum):
    """What another value of a field changes."""

    WEIGHTS = "weights"
    RESULTS = "results"
    NOTHING = "nothing"


ChangesWeights = Annotated[Value, Changes.WEIGHTS]
"""Trained parts mean something else under another value."""
ChangesResults = Annotated[Value, Changes.RESULTS]
"""Numbers change; free to choose when generating."""
ChangesNothing = Annotated[Value, Changes.NOTHING]
"""Numbers stay the same."""


def role(field: FieldInfo) -> Changes | None:
    """What a field says it changes; ``None`` if it says nothing."""
    return next((one for one in field.metadata if isinstance(one, Changes)), None)


def values(config: BaseModel, changes: Changes) -> dict[str, Any]:
    """A config's values that change this, by dotted key, as JSON holds them.

    Fields of a config inside a config say for themselves what they change.
    """
    return {key: value for key, value, found in _leaves(config, "") if found is changes}


def differences(then: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Keys that differ between two of :func:`values`.

    A key that only one of them has is compared with its default: it is an option that came, or went, since then.
    """
    missing = object()
    keys = [*now, *(key for key in then if key not in now)]
    return [
        key for key in keys if then.get(key, defaults.get(key, missing)) != now.get(key, defaults.get(key, missing))
    ]


def defaults(config: type[BaseModel], changes: Changes = Changes.WEIGHTS) -> dict[str, Any]:
    """Default values of those fields that have one, by key; of the outermost config alone."""
    found: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        if (role(field) or Changes.WEIGHTS) is not changes or field.is_required():
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            found |= {f"{name}.{key}": value for key, value in values(default, changes).items()}
        else:
            found[name] = to_jsonable_python(default, fallback=str)
    return found


def _leaves(value: Any, path: str, inherited: Changes = Changes.WEIGHTS) -> Iterator[tuple[str, Any, Changes]]:
    """Every value with its key and what it changes; containers are walked where they hold configs."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _leaves(getattr(value, name), f"{path}.{name}" if path else name, role(field) or Changes.WEIGHTS)
    elif isinstance(value, Mapping) and any(isinstance(item, BaseModel) for item in value.values()):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}", inherited)
    elif isinstance(value, Sequence) and any(isinstance(item, BaseModel) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}.{number}", inherited)
    else:
        yield path, to_jsonable_python(value, fallback=str), inherited
