"""A safe YAML reader for experiment files: duplicate keys are refused, ``1e-4`` is a number, lines are kept.

Scalars follow YAML 1.2, so that ``16:9``, ``no`` and ``2024-01-01`` stay text and ``010`` is ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from subjectgen.core.errors import ConfigError
from subjectgen.core.validation import join


class Reader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012  # PyYAML's own name
        "<": [("tag:yaml.org,2002:merge", re.compile(r"^<<$"))]
    }


def _construct_int(reader: Reader, node: yaml.ScalarNode) -> int:
    text = node.value
    return int(text, 0) if re.match(r"^[-+]?0[xob]", text) else int(text)


_DIGITS = "[0-9]+(?:_[0-9]+)*"
_EXPONENT = f"[eE][-+]?{_DIGITS}"
_NUMBER = list("-+.0123456789")
_TRUTH = r"^(?:true|True|TRUE|false|False|FALSE)$"
Reader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(_TRUTH), list("tTfF"))
Reader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
Reader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(rf"^[-+]?(?:{_DIGITS}|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)$"), _NUMBER
)
Reader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        rf"^(?:[-+]?(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:{_EXPONENT})?|[-+]?{_DIGITS}{_EXPONENT}"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    _NUMBER,
)
Reader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(text: str, file: str) -> tuple[Any, dict[str, str]]:
    """Parse one YAML document.

    Returns:
        The plain value (``None`` for an empty text) and ``file:line`` of every key path in it.

    Raises:
        ConfigError: Not YAML, a duplicate key, a key that is not text, or an alias that contains itself.
    """
    try:
        reader = Reader(text)
        node = reader.get_single_node()
        lines = {} if node is None else dict(_lines(node, "", file, ()))
        return (None if node is None else reader.construct_document(node)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}" if mark else file
        raise ConfigError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None


def _lines(node: yaml.Node, path: str, file: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Key paths with their places; on the way, refuses what a mapping must not have."""
    if id(node) in above:
        raise ConfigError(f"{file}:{node.start_mark.line + 1}: {path}: an alias contains itself")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield join(path, index), f"{file}:{item.start_mark.line + 1}"
            yield from _lines(item, join(path, index), file, above)
    if isinstance(node, yaml.MappingNode):
        yield from _mapping_lines(node, path, file, above)


def _mapping_lines(node: yaml.MappingNode, path: str, file: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.tag != "tag:yaml.org,2002:str":
            place = f"{file}:{line}: {path}: " if path else f"{file}:{line}: "
            raise ConfigError(f"{place}key {getattr(key, 'value', key.id)} is not text; put it in quotes")
        if key.value in seen:
            raise ConfigError(
                f"{file}:{line}: {join(path, key.value)}: duplicate key, first given in line {seen[key.value]}"
            )
        seen[key.value] = line
        yield join(path, key.value), f"{file}:{line}"
        yield from _lines(value, join(path, key.value), file, above)
