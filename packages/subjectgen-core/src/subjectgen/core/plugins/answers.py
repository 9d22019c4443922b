"""What is said of a component that nobody offers: what is installed, the nearest name, and how to get it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from subjectgen.core.errors import nearest
from subjectgen.core.first_party import OWNERS
from subjectgen.core.plugins.records import ALLOW, DISABLE, Broken, normal


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A name that was asked for, and the environment in which it is missing."""

    kind: str
    wanted: str
    """The distribution that the file names; empty if none."""
    name: str
    offered: Sequence[str]
    """Names of this kind that are there."""
    distributions: Collection[str]
    """Distributions whose plugins work."""
    broken: Sequence[Broken]
    left_out: Collection[str]

    def __str__(self) -> str:
        if self.wanted and normal(self.wanted) not in map(normal, self.distributions):
            return self._absent()
        of = f" of {self.wanted}" if self.wanted else ""
        parts = [f"unknown {self.kind[:-1]} {self.name!r}{of}{nearest(self.name, self.offered)}"]
        parts.append(f"installed: {', '.join(dict.fromkeys(self.offered)) or 'none'}")
        parts.extend(f"a plugin failed to load: {broken}" for broken in self.broken)
        owner = OWNERS[self.kind].get(self.name)
        if owner in self.left_out:
            parts.append(f"{self.name!r} belongs to {owner}, which {ALLOW} or {DISABLE} leaves out")
        elif owner and owner not in {*self.distributions, *(broken.distribution for broken in self.broken)}:
            parts.append(f"{self.name!r} belongs to {owner}: pip install {owner}")
        return "; ".join(parts).replace("?;", "?")

    def _absent(self) -> str:
        """Why the distribution that a file names does not answer."""
        name = normal(self.wanted)
        broken = next((one for one in self.broken if normal(one.distribution) == name), None)
        if broken:
            return f"plugin {self.wanted!r} does not work: {broken}"
        if name in self.left_out:
            return f"plugin {self.wanted!r} is installed, but {ALLOW} or {DISABLE} leaves it out"
        plain = re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)  # a file may say anything; only a name belongs behind pip
        parts = [f"plugin {self.wanted!r} is not installed{nearest(self.wanted, self.distributions)}"]
        parts += [f"to get it: pip install {name}"] if plain else []
        return "; ".join(parts).replace("?;", "?")
