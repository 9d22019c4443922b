"""What is known of each plugin, and how distributions are named and left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from subjectgen.core.component import Component

GROUP = "subjectgen"
"""The one entry-point group."""
ALLOW = "SUBJECTGEN_PLUGINS"
"""Environment: load only these distributions, separated by commas; empty means none."""
DISABLE = "SUBJECTGEN_DISABLE_PLUGINS"
"""Environment: leave these distributions out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin that loaded, and what it offers by kind."""

    distribution: str
    version: str
    components: Mapping[str, tuple[Component, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A plugin that did not load, or whose hooks do not keep the contract. It offers nothing."""

    distribution: str
    version: str
    error: str
    exception: BaseException | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{' '.join(filter(None, (self.distribution, self.version)))} ({self.error})"


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def listed(value: str | None) -> set[str] | None:
    """Names in an environment variable; ``None`` if it is not set."""
    return None if value is None else {normal(name.strip()) for name in value.split(",") if name.strip()}
