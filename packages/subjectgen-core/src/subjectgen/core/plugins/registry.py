"""Taking in one plugin: its hooks are checked and asked, and nothing of a bad one stays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pluggy

from subjectgen.core import hookspecs
from subjectgen.core.component import KINDS, Component
from subjectgen.core.errors import ComponentError, nearest
from subjectgen.core.plugins.records import Plugin
from subjectgen.core.validation import shown


class Registry:
    """pluggy's manager, asked for one plugin at a time: what a plugin raises is then its own fault."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    def add(self, plugin: object, *, distribution: str, version: str, before: Sequence[Plugin]) -> Plugin:
        """Add a module, or any object with hook implementations; ``before``: the plugins that are there.

        Raises:
            ComponentError: Misspelt or unmarked hook, or something offered that is not a well-formed component.
            Exception: Whatever a hook raises. Nothing of the plugin stays.
        """
        owner = self._manager.get_name(plugin)
        if owner is not None:
            raise ComponentError(f"its entry point names the same module as {owner} does")
        try:
            self._manager.register(plugin, name=f"{distribution}#{len(self._manager.get_plugins())}")
            self._check_hooks(plugin)
            offered = {kind: self._offered(kind, plugin) for kind in KINDS}
            _check_own_names(distribution, offered, before)
        except BaseException:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            raise
        components = {kind: found for kind, found in offered.items() if found}
        return Plugin(distribution=distribution, version=version, components=components)

    def _check_hooks(self, plugin: object) -> None:
        known = [f"subjectgen_{kind}" for kind in KINDS]
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError:
            given = [name for name in dir(plugin) if self._manager.parse_hookimpl_opts(plugin, name) is not None]
            wrong = next(name for name in given if name not in known)
            raise ComponentError(f"unknown hook {wrong!r}{nearest(wrong, known)}") from None
        for name in known:
            if callable(getattr(plugin, name, None)) and self._manager.parse_hookimpl_opts(plugin, name) is None:
                raise ComponentError(f"{name} is not marked with @hookimpl")

    def _offered(self, kind: str, plugin: object) -> tuple[Component, ...]:
        hook = getattr(self._manager.hook, f"subjectgen_{kind}")
        found: list[Component] = []
        for implementation in hook.get_hookimpls():
            if implementation.plugin is plugin:
                found.extend(_checked(implementation.function(), hook.name))
        names = [component.name for component in found]
        for name in names:
            if names.count(name) > 1:
                raise ComponentError(f"{hook.name} offers {name!r} twice")
        return tuple(found)


def _check_own_names(distribution: str, offered: Mapping[str, tuple[Component, ...]], before: Sequence[Plugin]) -> None:
    """Two entry points of one distribution must not offer one name: no YAML could choose between them."""
    for plugin in before:
        for kind, components in offered.items() if plugin.distribution == distribution else ():
            twice = {c.name for c in components} & {c.name for c in plugin.components.get(kind, ())}
            if twice:
                raise ComponentError(f"{distribution} offers {kind[:-1]} {min(twice)!r} from two entry points")


def _checked(offered: Any, hook: str) -> Iterator[Component]:
    if isinstance(offered, Component) or not hasattr(offered, "__iter__"):
        raise ComponentError(f"{hook} returned {shown(offered)}; expected a list of Component")
    for component in offered:
        if not isinstance(component, Component):
            raise ComponentError(f"{hook} offers {shown(component)}; expected a Component")
        if not re.fullmatch(r"[^\s:]+", component.name):
            raise ComponentError(f"{hook} offers the name {component.name!r}; expected one without spaces and colons")
        yield component
