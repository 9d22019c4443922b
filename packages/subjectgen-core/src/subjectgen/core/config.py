"""Experiment files: YAML with ``extends``, interpolation and overrides, resolved to plain values.

Where a value came from is kept, so that a later error can name file and line even across ``extends``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from subjectgen.core.errors import ConfigError, nearest
from subjectgen.core.validation import describe, join, locate, shown, validate
from subjectgen.core.yaml_reader import read_yaml

__all__ = ["Loaded", "describe", "load", "loads", "locate", "merge", "validate"]

Model = TypeVar("Model", bound=BaseModel)
SET = "--set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A resolved experiment file."""

    values: dict[str, Any]
    """Plain mappings, lists and scalars; nothing left to resolve."""
    file: str
    """The file as the user wrote it."""
    lines: Mapping[str, str] = field(default_factory=dict)
    """``file:line`` of each key path; ``--set`` for overrides."""

    def validate(self, model: type[Model]) -> Model:
        """Build ``model`` from all values; errors name file, line and key."""
        return validate(model, self.values, file=self.file, lines=self.lines)

    def error(self, path: str, message: str) -> ConfigError:
        """An error about one key, for checks that no single model can make."""
        return ConfigError(f"{locate(path, self.file, self.lines)}{message}")


def load(file: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Loaded:
    """Read an experiment file.

    Args:
        file: The YAML file. Its ``extends`` (a path or a list of paths, relative to the file) is read first and
            merged under it: mappings merge, lists and scalars replace, and a component whose ``name`` changes
            forgets the options of the one it replaces. Any value that begins with ``./`` or ``../`` is a path, relative
            to the file that says it.
        overrides: ``"a.b=value"``, the value read as YAML; ``a.0.b`` reaches into lists.

    Raises:
        ConfigError: Missing or unreadable file, a cycle of ``extends``, an override or interpolation that fails.
    """
    values, lines = _read(Path(file), ())
    return _finish(values, lines, overrides, os.fspath(file))


def loads(text: str, overrides: Iterable[str] = (), *, file: str = "<text>") -> Loaded:
    """Read an experiment from a string, as :func:`load` does; ``extends`` is relative to the working directory."""
    values, lines = _extend(*_mapping(text, file), Path(file), ())
    return _finish(values, lines, overrides, file)


def _finish(values: dict[str, Any], lines: dict[str, str], overrides: Iterable[str], file: str) -> Loaded:
    for override in sorted(overrides, key=_names_first):
        values, lines = _apply(values, lines, override)
    return Loaded(values=_resolve(values, file, lines), file=file, lines=lines)


# ------------------------------------------------------------------------------------------- extends, merging


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``over`` onto ``base``: mappings merge, all else replaces, another ``name`` starts afresh."""
    if _another_component(base, over):
        return dict(over)
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _another_component(base: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    return "name" in base and "name" in over and base["name"] != over["name"]


def _read(file: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """One file with all that it extends. ``chain``: the files that led here."""
    if file.resolve() in chain:
        names = " -> ".join(path.name for path in (*chain, file))
        raise ConfigError(f"{chain[-1].name}: extends: the files extend each other: {names}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not a UTF-8 text file: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}{_sibling(file)}") from None
    return _extend(*_mapping(text, str(file)), file, (*chain, file.resolve()))


def _mapping(text: str, file: str) -> tuple[dict[str, Any], dict[str, str]]:
    values, lines = read_yaml(text, file)
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{file}: got {shown(values)}; expected a mapping of keys to values")
    return values or {}, lines


def _extend(
    values: dict[str, Any], lines: dict[str, str], file: Path, chain: tuple[Path, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    bases = values.pop("extends", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    place = locate("extends", str(file), lines)
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{place}got {shown(bases)}; expected a path or a list of paths")
    merged: dict[str, Any] = {}
    merged_lines: dict[str, str] = {}
    for base in bases:
        path = Path(os.path.normpath(file.parent / base))
        if not path.is_file():
            raise ConfigError(f"{place}got {base!r}; expected an existing file, {path} is none{_sibling(path)}")
        merged, merged_lines = _lay(merged, merged_lines, *_read(path, chain))
    lines = {key: line for key, line in lines.items() if key.partition(".")[0] != "extends"}
    return _lay(merged, merged_lines, _anchored(values, file.parent), lines)


def _anchored(value: Any, folder: Path) -> Any:
    """Paths that begin with ``./`` or ``../`` start at the file that says them, wherever it is used from."""
    if isinstance(value, Mapping):
        return {key: _anchored(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_anchored(inner, folder) for inner in value]
    explicit = isinstance(value, str) and (value in (".", "..") or value.startswith(("./", "../")))
    return os.path.abspath(folder / value) if explicit else value


def _lay(
    base: dict[str, Any], base_lines: Mapping[str, str], over: dict[str, Any], over_lines: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge values, and keep the places of those keys that survive."""
    merged = merge(base, over)
    paths = set(_paths(merged, ""))
    return merged, {key: line for key, line in {**base_lines, **over_lines}.items() if key in paths}


def _paths(values: Any, path: str) -> Iterable[str]:
    items = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield join(path, key)
        yield from _paths(value, join(path, key))


def _sibling(path: Path) -> str:
    folder = path.parent
    return nearest(path.name, (entry.name for entry in folder.iterdir())) if folder.is_dir() else ""


# ------------------------------------------------------------------------------------ overrides, interpolation


def _names_first(override: str) -> bool:
    """Sort key: a change of ``name`` discards options, so it comes before the options given with it."""
    return override.partition("=")[0].strip().rpartition(".")[2] != "name"


def _apply(values: dict[str, Any], lines: dict[str, str], override: str) -> tuple[dict[str, Any], dict[str, str]]:
    key, equals, text = override.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(f"{SET} {override}: expected key.path=value")
    value, _ = read_yaml(text, f"{SET} {override}")
    changed = _with(values, steps, value, override)
    inner = {join("", *steps, *path.split(".")): SET for path in _paths(value, "")}
    return _lay({}, {}, changed, {**lines, **inner, ".".join(steps): SET})


def _with(values: Any, steps: list[str], value: Any, override: str) -> Any:
    """A copy of ``values`` in which ``steps`` lead to ``value``."""
    if not steps:
        return merge(values, value) if isinstance(values, Mapping) and isinstance(value, Mapping) else value
    step, rest = steps[0], steps[1:]
    if isinstance(values, list):
        if not step.isdecimal() or int(step) >= len(values):
            raise ConfigError(f"{SET} {override}: {step!r} is not an index of a list of {len(values)}")
        return [_with(item, rest, value, override) if i == int(step) else item for i, item in enumerate(values)]
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"{SET} {override}: {step!r} lies inside {shown(values)}, which has no keys")
    inner = dict(values or {})
    over = {step: _with(inner.get(step), rest, value, override)}
    return over if _another_component(inner, over) else {**inner, **over}


def _resolve(values: dict[str, Any], file: str, lines: Mapping[str, str]) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "")
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{locate(key, file, lines)}{reason}") from None
    return {str(key): value for key, value in resolved.items()} if isinstance(resolved, dict) else {}
