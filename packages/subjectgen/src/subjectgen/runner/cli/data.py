"""``subjectgen data``: commands about data sets."""

from __future__ import annotations

import typer

from subjectgen.runner.cli.data_check import check_data
from subjectgen.runner.cli.data_shard import shard_data
from subjectgen.runner.cli.options import HELP

data = typer.Typer(help="Look at data sets and pack them.", no_args_is_help=True, rich_markup_mode=None)
data.command("check", context_settings=HELP)(check_data)
data.command("shard", context_settings=HELP)(shard_data)
