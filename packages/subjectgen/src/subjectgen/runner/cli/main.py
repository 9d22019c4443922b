"""The command line: a thin layer over the Python API."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from subjectgen.core import SubjectgenError
from subjectgen.core.text import tolerate_letters
from subjectgen.runner.cli.check import check
from subjectgen.runner.cli.data import data
from subjectgen.runner.cli.demo import demo
from subjectgen.runner.cli.export import export
from subjectgen.runner.cli.generate import generate
from subjectgen.runner.cli.listing import components, plugins, versions
from subjectgen.runner.cli.options import HELP
from subjectgen.runner.cli.plan import plan
from subjectgen.runner.cli.train import train
from subjectgen.runner.cli.validate import validate

PIPE_CLOSED = 141
"""128 + SIGPIPE: what the reader of our output gets from everybody when it stops reading."""

app = typer.Typer(
    name="subjectgen",
    help="Compose, train, measure and extend subject-driven image generation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP,
)
for command in (train, validate, export, generate, check, plan, plugins, components, demo):
    app.command(context_settings=HELP)(command)
app.add_typer(data, name="data", context_settings=HELP)


def _show_versions(wanted: bool) -> bool:
    if wanted:
        typer.echo("\n".join(f"{name} {number}" for name, number in versions().items()))
        raise typer.Exit
    return wanted  # typer takes this for the option's value


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print versions and exit.", callback=_show_versions, is_eager=True)
    ] = False,
) -> None:
    """Options before the command; ``main`` reads ``--debug`` itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Mistakes a user can repair end in one message and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    tolerate_letters(sys.stdout, sys.stderr)
    try:
        app([argument for argument in given if argument != "--debug"])
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # typer's answer to it is 1, as to any failure
            raise SystemExit(PIPE_CLOSED) from None
        raise
    except (SubjectgenError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        if debug:
            raise
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise SystemExit(getattr(error, "exit_code", 2)) from None
