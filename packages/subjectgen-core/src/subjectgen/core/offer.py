"""A component with who offers it."""

from __future__ import annotations

from dataclasses import dataclass

from subjectgen.core.component import Component


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A component with who offers it."""

    distribution: str
    version: str
    component: Component

    def __str__(self) -> str:
        return f"component {self.component.name!r} of {self.distribution} {self.version}"
