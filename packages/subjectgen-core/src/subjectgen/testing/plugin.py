"""What every plugin promises."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distribution

import pytest

from subjectgen.core import KINDS, Component, Config
from subjectgen.core.plugins import GROUP, Plugin, Plugins
from subjectgen.core.validation import describe
from subjectgen.testing.base import Contract


class PluginContract(Contract):
    """Laws of an installed plugin.

    Name its distribution::

        class TestPlugin(PluginContract):
            distribution = "subjectgen-example"
    """

    distribution: str

    @pytest.fixture
    def entry(self) -> EntryPoint:
        """The one entry point of the distribution."""
        entries = [entry for entry in distribution(self.distribution).entry_points if entry.group == GROUP]
        assert len(entries) == 1, f"{self.distribution} has {len(entries)} entry points in {GROUP!r}; expected one"
        return entries[0]

    @pytest.fixture
    def plugin(self, entry: EntryPoint) -> Plugin:
        """The plugin alone in a host, so that others installed do not matter."""
        plugins = Plugins.empty()
        plugins.register(entry.load(), distribution=self.distribution)
        return plugins.plugins[0]

    def test_entry_point_is_named_as_the_distribution(self, entry: EntryPoint) -> None:
        """So that no two can collide on an honest index, and environment variables are readable."""
        assert entry.name == self.distribution

    def test_it_is_discovered(self) -> None:
        """Installed, it works beside what else is installed."""
        plugins = Plugins.discover({})
        assert self.distribution in plugins.distributions(), [str(broken) for broken in plugins.broken]

    def test_it_offers_something(self, plugin: Plugin) -> None:
        """At least one component, each summed up in one line."""
        assert list(_components(plugin))
        for component in _components(plugin):
            assert component.summary.strip()
            assert "\n" not in component.summary

    def test_names_are_plain(self, plugin: Plugin) -> None:
        """Names are lower case with underscores, as a YAML file writes them."""
        for component in _components(plugin):
            assert component.name.isidentifier()
            assert component.name == component.name.lower()

    def test_targets_import(self, plugin: Plugin) -> None:
        """Every target is a documented class that nests a Config of subjectgen.core, whose keys are documented."""
        for component in _components(plugin):
            target = component.load()
            assert isinstance(target, type), component.target
            assert (target.__doc__ or "").strip(), f"{component.target} has no docstring"
            assert issubclass(target.Config, Config), component.target
            undocumented = [row["key"] for row in describe(target.Config) if not row["doc"]]
            assert not undocumented, f"{component.target}: no docstring under {', '.join(undocumented)}"

    def test_every_option_says_what_it_changes(self, plugin: Plugin) -> None:
        """``ChangesWeights``, ``ChangesResults`` or ``ChangesNothing``: trained parts are refused, or not, by it."""
        for component in _components(plugin):
            silent = [row["key"] for row in describe(component.load_config()) if row["changes"] is None]
            assert not silent, f"{component.target}: nothing is said of {', '.join(silent)}"

    def test_a_config_that_stands_elsewhere_is_the_targets(self, plugin: Plugin) -> None:
        """A file is checked by the one, and the component is built with the other."""
        for component in _components(plugin):
            assert component.load_config() is component.load_target().Config

    def test_discovery_is_light(self, entry: EntryPoint) -> None:
        """Importing the plugin and asking its hooks does not import torch."""
        hooks = " ".join(f"subjectgen_{kind}" for kind in KINDS)
        program = (
            f"import sys, importlib; plugin = importlib.import_module({entry.module!r})\n"
            f"for name in {hooks!r}.split():\n    list(getattr(plugin, name, list)())\n"
            "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _components(plugin: Plugin) -> Iterator[Component]:
    for components in plugin.components.values():
        yield from components
