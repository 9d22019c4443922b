"""Checks of the branch and stage names that a schedule's configuration mentions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from subjectgen.core import ConfigError, nearest


def check_names(key: str, names: Iterable[str], known: Sequence[str], *, what: str = "branch") -> None:
    """Refuse a name that the experiment does not have.

    Raises:
        ConfigError: names the key, the unknown name, what there is and the nearest.
    """
    for name in names:
        if name not in known:
            raise ConfigError(
                f"schedule.{key}: unknown {what} {name!r}; expected one of {', '.join(known)}{nearest(name, known)}"
            )


def check_branches(branches: Sequence[str]) -> tuple[str, ...]:
    """The branches of an experiment in its order, at least one, all different."""
    if not branches:
        raise ConfigError("branches: an experiment needs at least one branch")
    repeated = sorted({name for name in branches if branches.count(name) > 1})
    if repeated:
        raise ConfigError(f"branches: the name {repeated[0]!r} is used twice; expected different names")
    return tuple(branches)
