"""One part of an experiment: which component, with which options, and where the file says so."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from subjectgen.core.component import Config
from subjectgen.core.guard import guarded
from subjectgen.core.offer import Offer
from subjectgen.core.roles import Changes, values


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A component that a file names, with its options validated. Made by ``Plugins.part``."""

    kind: str
    offer: Offer
    """Component, distribution and version."""
    config: Config
    where: str
    """Key path in the file."""
    place: str
    """Start of an error message: file, line and key path."""

    @cached_property
    def target(self) -> type[Any]:
        """The class; imported when it is first asked for."""
        who = f"{self.place}{self.offer.distribution} {self.offer.version}: "
        with guarded(who, str(self.offer), "import"):
            return self.offer.component.load_target()

    @property
    def name(self) -> str:
        """The component's name."""
        return self.offer.component.name

    @property
    def identity(self) -> str:
        """Equal for parts that are built alike, wherever they stand."""
        target = f"{self.offer.distribution} {self.offer.component.target}"
        return f"{target} {json.dumps(self.config.model_dump(mode='json'), sort_keys=True)}"

    def values(self, changes: Changes) -> dict[str, Any]:
        """Options that change this, by dotted key."""
        return values(self.config, changes)

    def describe(self) -> dict[str, Any]:
        """What a run keeps of it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "distribution": self.offer.distribution,
            "version": self.offer.version,
            "options": self.config.model_dump(mode="json"),
        }

    def changed(self, **options: Any) -> Part:
        """The same part with other options, which are not validated again."""
        return replace(self, config=self.config.model_copy(update=options))

    def build(self, **runtime: Any) -> Any:
        """Make it: ``Class(config, **runtime)``.

        Raises:
            SubjectgenError: What the component raises of ours, with file, line and key path in front. Anything else it
                raises becomes a ComponentError that also names the component, its distribution and version; the
                original is its ``__cause__``. Memory that ran out passes as it is.
            ComponentError: What was built does not keep the protocol of its kind; says what it lacks.
        """
        with guarded(self.place, str(self.offer), "build"):
            built = self.target(self.config, **runtime)
            from subjectgen.core.conformance import check_protocol  # needs torch, which the component has by now

            check_protocol(self.kind, built, str(self.offer))
            return built
