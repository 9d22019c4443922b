"""What made a cache: equal identity, equal entries. Kept as readable values; a cache of another is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subjectgen.core import Changes, CheckpointError, ConfigError
from subjectgen.core.files import visible_files
from subjectgen.core.json_files import read_json, write_json
from subjectgen.core.part import Part
from subjectgen.runner.system.fingerprint import INPUT_TOLERANCE, TOLERANCE, distance

FILE = "cache.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What made the entries of a cache."""

    values: Mapping[str, Any]
    """By dotted key, as JSON holds them; all must be equal."""
    samples: Mapping[str, Any] = field(default_factory=dict)
    """Some values of what the part makes of a fixed sample, by name; they must be equal but for rounding, which differs
    between devices."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Versions, for the message where samples differ."""

    @property
    def digest(self) -> str:
        """A hash of the values."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()[:16]


def part_identity(part: Part, *, made: str, **more: Any) -> dict[str, Any]:
    """Values that say what a part is: component, distribution, options that change weights or results.

    Args:
        part: As the experiment names it.
        made: What the cache holds, in words.
        more: Further values.
    """
    options = {**part.values(Changes.WEIGHTS), **part.values(Changes.RESULTS)}
    return {
        "made": made,
        "component": part.name,
        "distribution": part.offer.distribution,
        "version": part.offer.version,
        **{f"options.{key}": value for key, value in options.items()},
        **more,
    }


def claim(folder: Path, identity: Identity) -> None:
    """Begin a cache in a folder, or see whether the one that is there was made alike.

    Raises:
        ConfigError: It was not, or the folder holds something else; names each key that differs, both values and the
            way out.
    """
    file = folder / FILE
    others = visible_files(folder) if folder.exists() else []  # looked for first: whoever writes shards wrote the file
    if not file.is_file():
        if others:
            raise ConfigError(f"{folder}: holds {others[0].name}, but no {FILE}; {_way_out(folder)}")
        content = {"values": identity.values, "samples": identity.samples, "libraries": identity.libraries}
        write_json(file, {"format": FORMAT, **content})
    try:
        stored = read_json(file)
    except CheckpointError as error:
        raise ConfigError(f"{error}; {_way_out(folder)}") from error
    if stored.get("format") != FORMAT:
        raise ConfigError(f"{file}: format: got {stored.get('format')!r}; expected {FORMAT}; {_way_out(folder)}")
    problems = [f"{file}: {problem}" for problem in _problems(stored, identity)]
    if problems:
        raise ConfigError("\n".join([*problems, f"{folder}: a cache serves only what made it; {_way_out(folder)}"]))


def _problems(stored: Mapping[str, Any], identity: Identity) -> Iterator[str]:
    now = json.loads(json.dumps(identity.values))
    then = stored.get("values", {})
    for key in {**then, **now}:
        if then.get(key) != now.get(key):
            yield f"{key}: made with {json.dumps(then.get(key))}; now {json.dumps(now.get(key))}"
    for name, sample in identity.samples.items():
        far = distance(stored.get("samples", {}).get(name), sample)
        if far > (INPUT_TOLERANCE if name.startswith("pictures.") else TOLERANCE):
            was, has = json.dumps(stored.get("libraries", {})), json.dumps(identity.libraries)
            yield f"{name}: differs by {far:.0%} for one fixed sample; made with libraries {was}; now {has}"


def _way_out(folder: Path) -> str:
    return f"expected another folder: --set training.cache.folder=ANOTHER, or remove {folder}"
