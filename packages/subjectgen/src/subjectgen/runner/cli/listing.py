"""``subjectgen plugins`` and ``subjectgen components``."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from subjectgen.core import KINDS, ComponentError, SubjectgenError, nearest
from subjectgen.core.plugins import Plugins
from subjectgen.runner.cli.options import AsJson

KindOption = Annotated[
    str | None, typer.Option(help=f"Only this kind: {', '.join(KINDS)}; the singular will do.", metavar="KIND")
]
OWN = ("subjectgen", "subjectgen-core")


def plugins(as_json: AsJson = False) -> None:
    """List versions of the runner and core, and plugins with their components; exit code 1 if any is broken."""
    host = Plugins.discover()
    if as_json:
        typer.echo(json.dumps({"versions": versions(), **_plugins_tree(host)}, indent=2))
    else:
        for name, number in versions().items():
            typer.echo(f"{name} {number}")
        for plugin in host.plugins:
            typer.echo(f"{plugin.distribution} {plugin.version}")
            for kind, components in plugin.components.items():
                typer.echo(f"  {kind}: {', '.join(component.name for component in components)}")
        for name in host.left_out:
            typer.echo(f"{name} (left out by the environment)")
        for broken in host.broken:
            typer.echo(f"broken: {broken}", err=True)
    if host.broken:
        raise typer.Exit(1)


def components(kind: KindOption = None, as_json: AsJson = False) -> None:
    """List components by kind; with --json also their options."""
    host = Plugins.discover()
    kinds = [_kind(kind)] if kind else list(KINDS)
    if as_json:
        typer.echo(json.dumps({name: _components_tree(host, name) for name in kinds}, indent=2, default=str))
        return
    for name in kinds:
        typer.echo(f"{name}:")
        for offer in host.offers(name):
            typer.echo(f"  {offer.component.name:<18} {offer.component.summary} ({offer.distribution})")


def versions() -> dict[str, str]:
    """Of the distributions that are no plugins."""
    found = {}
    for name in OWN:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _kind(word: str) -> str:
    if word in KINDS or f"{word}s" in KINDS:
        return word if word in KINDS else f"{word}s"
    raise ComponentError(f"--kind: got {word!r}; expected one of {', '.join(KINDS)}{nearest(word, KINDS)}")


def _plugins_tree(host: Plugins) -> dict[str, Any]:
    return {
        "plugins": [
            {
                "distribution": plugin.distribution,
                "version": plugin.version,
                "components": {kind: [c.name for c in found] for kind, found in plugin.components.items()},
            }
            for plugin in host.plugins
        ],
        "broken": [{"distribution": b.distribution, "version": b.version, "error": b.error} for b in host.broken],
        "left_out": list(host.left_out),
    }


def _components_tree(host: Plugins, kind: str) -> list[dict[str, Any]]:
    from subjectgen.core.config import describe

    rows = []
    for offer in host.offers(kind):
        row: dict[str, Any] = {"name": offer.component.name, "summary": offer.component.summary}
        row |= {"distribution": offer.distribution, "version": offer.version}
        try:
            row["options"] = describe(offer.component.load_config())
        except SubjectgenError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows
