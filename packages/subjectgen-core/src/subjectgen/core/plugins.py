"""The plugin host: finds what is installed, survives what is broken, answers for what is missing.

It is not pluggy's own loader, which drops a second distribution with the same entry-point name without a word and
dies of the first plugin that fails to import.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from subjectgen.core import hookspecs
from subjectgen.core.compatibility import mismatch
from subjectgen.core.component import KINDS, Component, Config
from subjectgen.core.errors import ComponentError, ConfigError, SubjectgenError, nearest
from subjectgen.core.first_party import OWNERS
from subjectgen.core.guard import guarded, in_one_line
from subjectgen.core.validation import join, locate, shown, validate

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


class Plugins:
    """All plugins of one run. There is no global one: make it with :meth:`discover` or :meth:`empty`."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
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
        allowed = _names(environment.get(ALLOW))
        disabled = _names(environment.get(DISABLE)) or set()
        present = set()
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_owner(entry), entry.name)):
            owner = _normal(_owner(entry))
            present.add(owner)
            if owner in disabled or (allowed is not None and owner not in allowed):
                plugins._left_out.append(owner)
            else:
                plugins._load(entry)
        for name in sorted((allowed or set()) - present):
            reason = f"{ALLOW} names it, but it is not installed{nearest(name, present)}"
            plugins._broken.append(Broken(distribution=name, version="", error=reason))
        return plugins

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

    def components(self, kind: str) -> list[tuple[str, str, Component]]:
        """All components of a kind as (distribution, version, component), sorted by name."""
        _check_kind(kind)
        offers = [(p.distribution, p.version, c) for p in self.plugins for c in p.components.get(kind, ())]
        return sorted(offers, key=lambda offer: (offer[2].name, offer[0]))

    def component(self, kind: str, name: str) -> Component:
        """Find a component by ``name`` or ``distribution:name``.

        Raises:
            ComponentError: Nobody offers it (with what is installed, the nearest name, broken plugins and how to
                get it), or more than one distribution does.
        """
        return self._find(kind, name)[2]

    def _find(self, kind: str, name: str) -> tuple[str, str, Component]:
        wanted, _, bare = name.rpartition(":")
        offers = self.components(kind)
        if wanted:
            offers = [offer for offer in offers if _normal(offer[0]) == _normal(wanted)]
        found = [offer for offer in offers if offer[2].name == bare]
        if not found:
            raise ComponentError(self._unknown(kind, wanted, bare, [offer[2].name for offer in offers]))
        if len(found) > 1:
            owners = [distribution for distribution, _, _ in found]
            choices = " or ".join(f"'{owner}:{bare}'" for owner in owners)
            raise ComponentError(f"{kind[:-1]} {bare!r} is offered by {' and by '.join(owners)}; write {choices}")
        return found[0]

    # -------------------------------------------------------------------------------------------------- building

    def configure(
        self,
        kind: str,
        spec: Mapping[str, Any],
        *,
        where: str = "",
        file: str | None = None,
        lines: Mapping[str, str] | None = None,
    ) -> tuple[type[Any], Config]:
        """Import the class that ``spec["name"]`` names and validate the other keys as its ``Config``.

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
            names = ", ".join(component.name for _, _, component in self.components(kind))
            raise ConfigError(f"{place}got {shown(name)}; expected the name of one of the {kind}: {names or 'none'}")
        target = self._target(kind, name, place)
        options = {key: value for key, value in spec.items() if key != "name"}
        with guarded(locate(where, file, lines), _who(*self._find(kind, name)), "check its options", validating=True):
            return target, validate(target.Config, options, file=file, where=where, lines=lines)

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
        """Build a component: :meth:`configure`, then ``Class(config, **runtime)``.

        Raises:
            SubjectgenError: As :meth:`configure`; and what the component raises of ours, with file, line and key path
                in front. Anything else it raises becomes a ComponentError that also names the component, its
                distribution and version; the original is its ``__cause__``. Memory that ran out passes as it is.
        """
        target, config = self.configure(kind, spec, where=where, file=file, lines=lines)
        with guarded(locate(where, file, lines), _who(*self._find(kind, spec["name"])), "build"):
            return target(config, **runtime)

    def target(self, kind: str, name: str) -> type[Any]:
        """Import the class of a component, found by ``name`` or ``distribution:name``.

        Raises:
            ComponentError: Unknown, ambiguous, not importable, or not a class with a nested ``Config``.
        """
        return self._target(kind, name, "")

    def _target(self, kind: str, name: str, place: str) -> type[Any]:
        with guarded(place, f"{kind[:-1]} {name!r}", "be found"):
            distribution, version, component = self._find(kind, name)
        with guarded(f"{place}{distribution} {version}: ", f"component {component.name!r}", "import"):
            target = component.load()
            config = getattr(target, "Config", None)
            if not (isinstance(config, type) and issubclass(config, Config)):
                raise ComponentError(
                    f"component {component.name!r} ({component.target}) has no Config; expected a class that nests "
                    "a Config(subjectgen.core.Config), empty if there is nothing to set"
                )
        return target

    # --------------------------------------------------------------------------------------------------- loading

    def register(self, plugin: object, *, distribution: str, version: str = "0") -> None:
        """Add one plugin: a module, or any object with hook implementations.

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
            self._check_own_names(distribution, offered)
        except BaseException:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            raise
        components = {kind: found for kind, found in offered.items() if found}
        self._plugins.append(Plugin(distribution=distribution, version=version, components=components))

    def _load(self, entry: EntryPoint) -> None:
        distribution, version = _owner(entry), entry.dist.version if entry.dist else ""
        try:
            if entry.dist and (reason := mismatch(entry.dist)):
                raise ComponentError(reason)  # before any code of another age runs
            self.register(entry.load(), distribution=distribution, version=version)
        except (Exception, SystemExit) as error:  # a plugin may raise anything; the others must still load
            reason = " ".join(str(error).split()) if isinstance(error, SubjectgenError) else in_one_line(error)
            self._broken.append(Broken(distribution=distribution, version=version, error=reason, exception=error))

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

    def _check_own_names(self, distribution: str, offered: Mapping[str, tuple[Component, ...]]) -> None:
        """Two entry points of one distribution must not offer one name: no YAML could choose between them."""
        for before in self._plugins:
            for kind, components in offered.items() if before.distribution == distribution else ():
                twice = {c.name for c in components} & {c.name for c in before.components.get(kind, ())}
                if twice:
                    raise ComponentError(f"{distribution} offers {kind[:-1]} {min(twice)!r} from two entry points")

    def _offered(self, kind: str, plugin: object) -> tuple[Component, ...]:
        """Ask this plugin alone, so that what it raises is its own fault."""
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

    # ---------------------------------------------------------------------------------------------------- answers

    def _unknown(self, kind: str, wanted: str, name: str, installed: list[str]) -> str:
        if wanted and _normal(wanted) not in map(_normal, self.distributions()):
            return self._absent(wanted)
        parts = [f"unknown {kind[:-1]} {name!r}{f' of {wanted}' if wanted else ''}{nearest(name, installed)}"]
        parts.append(f"installed: {', '.join(dict.fromkeys(installed)) or 'none'}")
        parts.extend(f"a plugin failed to load: {broken}" for broken in self._broken)
        owner = OWNERS[kind].get(name)
        if owner in self._left_out:
            parts.append(f"{name!r} belongs to {owner}, which {ALLOW} or {DISABLE} leaves out")
        elif owner and owner not in {*self.distributions(), *(broken.distribution for broken in self._broken)}:
            parts.append(f"{name!r} belongs to {owner}: pip install {owner}")
        return "; ".join(parts).replace("?;", "?")

    def _absent(self, wanted: str) -> str:
        """Why the distribution that a file names does not answer."""
        name = _normal(wanted)
        broken = next((one for one in self._broken if _normal(one.distribution) == name), None)
        if broken:
            return f"plugin {wanted!r} does not work: {broken}"
        if name in self._left_out:
            return f"plugin {wanted!r} is installed, but {ALLOW} or {DISABLE} leaves it out"
        plain = re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)  # a file may say anything; only a name belongs behind pip
        parts = [f"plugin {wanted!r} is not installed{nearest(wanted, self.distributions())}"]
        parts += [f"to get it: pip install {name}"] if plain else []
        return "; ".join(parts).replace("?;", "?")


def _checked(offered: Any, hook: str) -> Iterator[Component]:
    if isinstance(offered, Component) or not hasattr(offered, "__iter__"):
        raise ComponentError(f"{hook} returned {shown(offered)}; expected a list of Component")
    for component in offered:
        if not isinstance(component, Component):
            raise ComponentError(f"{hook} offers {shown(component)}; expected a Component")
        if not re.fullmatch(r"[^\s:]+", component.name):
            raise ComponentError(f"{hook} offers the name {component.name!r}; expected one without spaces and colons")
        yield component


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ComponentError(f"unknown kind {kind!r}{nearest(kind, KINDS)} (kinds: {', '.join(KINDS)})")


def _who(distribution: str, version: str, component: Component) -> str:
    return f"component {component.name!r} of {distribution} {version}"


def _owner(entry: EntryPoint) -> str:
    return (entry.dist.name if entry.dist else "") or entry.name


def _normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(value: str | None) -> set[str] | None:
    return None if value is None else {_normal(name.strip()) for name in value.split(",") if name.strip()}
