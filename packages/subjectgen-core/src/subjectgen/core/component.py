"""A component: what a plugin offers, described without importing it; and the base of every config."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from subjectgen.core.errors import ComponentError

KINDS = (
    *("encoders", "autoencoders", "aggregators", "injectors", "backbones"),
    *("schedules", "datasets", "metrics", "finders"),
)


class Config(BaseModel):
    """Base of every component's nested ``Config``: frozen, keyword-only, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One thing a plugin offers. ``target`` is imported only when an experiment uses it."""

    name: str
    """What an experiment YAML writes."""
    target: str
    """``"package.module:Class"``; the class nests a ``Config`` and is built as ``Class(config, **runtime)``."""
    summary: str
    """One line for ``subjectgen components``."""
    config: str = ""
    """``"package.module:Class"`` of the target's ``Config``, where importing the target takes seconds and the config's
    own module does not: a file is then checked without it."""
    extra: str = ""
    """How to get what the target needs, e.g. ``pip install subjectgen-encoders[flash]``."""
    sizes: str = ""
    """``package:my_package/sizes``, a folder with ``owner--name/config.json`` of hub models that it is used with:
    ``subjectgen plan`` then needs no download."""

    def load(self) -> type[Any]:
        """Import the target class; a failure names the component and how to repair it."""
        return self._import(self.target)

    def load_config(self) -> type[Config]:
        """Import the config alone, if it stands elsewhere, or the target with it.

        Raises:
            ComponentError: It cannot be imported, or is no ``Config`` of ours.
        """
        if not self.config:
            found: type[Config] = self.load_target().Config
            return found
        config = self._import(self.config)
        if not issubclass(config, Config):
            raise ComponentError(f"component {self.name!r}: {self.config} is no Config of subjectgen.core")
        return config

    def load_target(self) -> type[Any]:
        """Import the class, and see that it nests a ``Config``.

        Raises:
            ComponentError: It cannot be imported, or has no ``Config`` of ours.
        """
        target = self.load()
        config = getattr(target, "Config", None)
        if not (isinstance(config, type) and issubclass(config, Config)):
            raise ComponentError(
                f"component {self.name!r} ({self.target}) has no Config; expected a class that nests "
                "a Config(subjectgen.core.Config), empty if there is nothing to set"
            )
        return target

    def _import(self, place: str) -> type[Any]:
        module_name, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except Exception as error:  # a plugin's import may raise anything; it must not lose the run's message
            hint = f"; try: {self.extra}" if self.extra else ""
            raise ComponentError(
                f"component {self.name!r} ({place}) failed to import: {type(error).__name__}: {error}{hint}"
            ) from error
