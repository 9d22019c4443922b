"""The plugin host. It is not pluggy's own loader, which drops a second distribution with the same entry-point name
without a word and dies of the first plugin that fails to import.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from subjectgen.core.compatibility import mismatch
from subjectgen.core.component import KINDS
from subjectgen.core.errors import ComponentError, ConfigError, SubjectgenError, nearest
from subjectgen.core.guard import guarded, in_one_line
from subjectgen.core.offer import Offer
from subjectgen.core.part import Part
from subjectgen.core.plugins.answers import Missing
from subjectgen.core.plugins.records import ALLOW, DISABLE, GROUP, Broken, Plugin, listed, normal
from subjectgen.core.plugins.registry import Registry
from subjectgen.core.validation import join, locate, shown, validate


class Plugins:
    """All plugins of one run. There is no global one: make it with :meth:`discover` or :meth:`empty`."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._plugins: list[Plugin] = []
        self._broken: list[Broken] = []
        self._left_out: list[str] = []

    @classmethod
    def empty(cls) -> Plugins:
        """A host without plugins, for tests; :meth:`register` adds some."""
        return cls()

    @classmethod
    def discover(cls, environment: Mapping[str, str] = os.environ) -> Plugins:
        """Load every installed plugin that the environment does not leave out. Never raises for a bad plugin."""
        plugins = cls()
        allowed = listed(environment.get(ALLOW))
        disabled = listed(environment.get(DISABLE)) or set()
        present = set()
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_owner(entry), entry.name)):
            owner = normal(_owner(entry))
            present.add(owner)
            if owner in disabled or (allowed is not None and owner not in allowed):
                plugins._left_out.append(owner)
            else:
                plugins._load(entry)
        for name in sorted((allowed or set()) - present):
            reason = f"{ALLOW} names it, but it is not installed{nearest(name, present)}"
            plugins._broken.append(Broken(distribution=name, version="", error=reason))
        return plugins

    def register(self, plugin: object, *, distribution: str, version: str = "0") -> None:
        """Add one plugin: a module, or any object with hook implementations.

        Raises:
            ComponentError: Misspelt or unmarked hook, or something offered that is not a well-formed component.
            Exception: Whatever a hook raises. Nothing of the plugin stays.
        """
        added = self._registry.add(plugin, distribution=distribution, version=version, before=self._plugins)
        self._plugins.append(added)

    def _load(self, entry: EntryPoint) -> None:
        distribution, version = _owner(entry), entry.dist.version if entry.dist else ""
        try:
            if entry.dist and (reason := mismatch(entry.dist)):
                raise ComponentError(reason)  # before any code of another age runs
            self.register(entry.load(), distribution=distribution, version=version)
        except (Exception, SystemExit) as error:  # a plugin may raise anything; the others must still load
            reason = " ".join(str(error).split()) if isinstance(error, SubjectgenError) else in_one_line(error)
            self._broken.append(Broken(distribution=distribution, version=version, error=reason, exception=error))

    # -------------------------------------------------------------------------------------------- what there is

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Plugins that work, by distribution."""
        return tuple(sorted(self._plugins, key=lambda plugin: plugin.distribution))

    @property
    def broken(self) -> tuple[Broken, ...]:
        """Plugins that do not work, with the reason."""
        return tuple(self._broken)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Distributions that the environment variables leave out."""
        return tuple(self._left_out)

    def distributions(self) -> dict[str, str]:
        """Version of each distribution whose plugin works; what a run records."""
        return {plugin.distribution: plugin.version for plugin in self.plugins}

    def offers(self, kind: str) -> list[Offer]:
        """All components of a kind, sorted by name."""
        if kind not in KINDS:
            raise ComponentError(f"unknown kind {kind!r}{nearest(kind, KINDS)} (kinds: {', '.join(KINDS)})")
        found = [
            Offer(distribution=plugin.distribution, version=plugin.version, component=component)
            for plugin in self.plugins
            for component in plugin.components.get(kind, ())
        ]
        return sorted(found, key=lambda offer: (offer.component.name, offer.distribution))

    def offer(self, kind: str, name: str) -> Offer:
        """Find a component by ``name`` or ``distribution:name``.

        Raises:
            ComponentError: Nobody offers it (with what is installed, the nearest name, broken plugins and how to
                get it), or more than one distribution does.
        """
        wanted, _, bare = name.rpartition(":")
        offers = [one for one in self.offers(kind) if not wanted or normal(one.distribution) == normal(wanted)]
        found = [one for one in offers if one.component.name == bare]
        if not found:
            raise ComponentError(str(self._missing(kind, wanted, bare, [one.component.name for one in offers])))
        if len(found) > 1:
            owners = [one.distribution for one in found]
            choices = " or ".join(f"'{owner}:{bare}'" for owner in owners)
            raise ComponentError(f"{kind[:-1]} {bare!r} is offered by {' and by '.join(owners)}; write {choices}")
        return found[0]

    def _missing(self, kind: str, wanted: str, name: str, offered: list[str]) -> Missing:
        return Missing(
            kind=kind,
            wanted=wanted,
            name=name,
            offered=offered,
            distributions=self.distributions(),
            broken=self._broken,
            left_out=self._left_out,
        )

    # ---------------------------------------------------------------------------------------------------- parts

    def part(
        self,
        kind: str,
        spec: Mapping[str, Any],
        *,
        where: str = "",
        file: str | None = None,
        lines: Mapping[str, str] | None = None,
    ) -> Part:
        """Find the component that ``spec["name"]`` names and validate the other keys as its ``Config``.

        Args:
            kind: One of :data:`~subjectgen.core.component.KINDS`.
            spec: ``{"name": ..., **options}`` as the file says it.
            where: Key path of ``spec``, for messages.
            file: File of ``spec``, for messages.
            lines: ``file:line`` of each key path, for messages.

        Raises:
            ComponentError: Unknown, ambiguous or not importable.
            ConfigError: No name, or options that do not fit.
        """
        name = spec.get("name")
        place = locate(join(where, "name"), file, lines)
        if not isinstance(name, str):
            names = ", ".join(offer.component.name for offer in self.offers(kind))
            raise ConfigError(f"{place}got {shown(name)}; expected the name of one of the {kind}: {names or 'none'}")
        with guarded(place, f"{kind[:-1]} {name!r}", "import"):
            offer = self.offer(kind, name)
        with guarded(f"{place}{offer.distribution} {offer.version}: ", str(offer), "import"):
            model = offer.component.load_config()
        options = {key: value for key, value in spec.items() if key != "name"}
        place = locate(where, file, lines)
        with guarded(place, str(offer), "check its options", validating=True):
            config = validate(model, options, file=file, where=where, lines=lines)
        return Part(kind=kind, offer=offer, config=config, where=where, place=place)

    def build(
        self,
        kind: str,
        spec: Mapping[str, Any],
        *,
        where: str = "",
        file: str | None = None,
        lines: Mapping[str, str] | None = None,
        **runtime: Any,
    ) -> Any:
        """Make a component in one go: :meth:`part`, then :meth:`~subjectgen.core.part.Part.build`."""
        return self.part(kind, spec, where=where, file=file, lines=lines).build(**runtime)


def _owner(entry: EntryPoint) -> str:
    return (entry.dist.name if entry.dist else "") or entry.name
