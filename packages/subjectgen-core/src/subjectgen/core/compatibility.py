"""Which version of the core a plugin was built for: read from its metadata, before any of its code runs."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CORE = "subjectgen-core"
"""The distribution whose version is the contract's."""


def mismatch(distribution: Distribution, installed: str | None = None) -> str | None:
    """Say why a plugin cannot work with the installed core, and what to do; ``None`` if it can.

    Args:
        distribution: The plugin's, with what it requires. Requirements of its extras do not count.
        installed: Version of the core; ``None`` asks the environment. A pre-release counts as any other version.

    Raises:
        packaging.requirements.InvalidRequirement: Metadata that no installer would have written.
    """
    installed = core_version() if installed is None else installed
    for text in distribution.requires or ():
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if canonicalize_name(requirement.name) != CORE or not applies or installed is None:
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wanted = _in_order(requirement.specifier)
            return (
                f"built for {CORE} {wanted}; installed is {installed}: pip install -U {distribution.name}"
                " (what changed: docs/how-to/upgrade.md)"
            )
    return None


def core_version() -> str | None:
    """Installed version of the core; ``None`` where it runs from a folder that nobody installed."""
    try:
        return version(CORE)
    except PackageNotFoundError:
        return None


def _in_order(specifier: SpecifierSet) -> str:
    """Lower bounds first, as people write them: ``>=9,<10``."""
    return ",".join(sorted(map(str, specifier), reverse=True))
