"""``subjectgen data shard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subjectgen.core import InputError
from subjectgen.runner.cli.options import DataSpec, Overrides
from subjectgen.runner.cli.progress import Counted, Loading

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def shard_data(
    spec: DataSpec,
    out: Annotated[Path, typer.Option(help="New folder for the shards.", metavar="FOLDER")],
    shard_size: Annotated[
        str, typer.Option(help="Bytes after which a shard is full: 500M, 1G or a number.", metavar="BYTES")
    ] = "1G",
    override: Overrides = [],  # noqa: B006
) -> None:
    """Pack a data set into tar shards that `tar_shards` and tools for WebDataset read.

    Samples that cannot be read are left out and counted; exit code 1 if there are any.
    """
    size = _bytes(shard_size)
    with Loading("opening the data set"):
        from subjectgen.core.disks import check_writable
        from subjectgen.datasets.shards import check_new, write_shards
        from subjectgen.runner.cli.data_specs import found_datasets

        check_new(out)
        check_writable(out)
        parts = found_datasets(spec, override)
        if len(parts) > 1:
            names = ", ".join(part.name for part in parts)
            raise InputError(f"{spec}: trains on several data sets ({names}); expected one, as a mapping {{name: ...}}")
        dataset = parts[0].build()
    with Counted(f"packing {parts[0].name}", "samples") as counted:
        packed = write_shards(dataset, out, shard_size=size, on_sample=counted)
    typer.echo(f"wrote {packed.samples} samples in {len(packed.shards)} shards to {out}")
    if packed.rounded:
        typer.echo(f"{packed.rounded} pictures had more than 8 bits per value and were rounded", err=True)
    for reason, count in packed.left_out.counts.most_common():
        typer.echo(f"left out: {count} x {reason}, such as {packed.left_out.examples[reason][0]}", err=True)
    if packed.left_out.total:
        raise typer.Exit(1)


def _bytes(text: str) -> int:
    number, unit = text.strip().lower().removesuffix("b"), ""
    if number[-1:] in "kmg":
        number, unit = number[:-1], number[-1:]
    if not number.isdecimal() or not int(number):
        raise InputError(f"--shard-size: got {text!r}; expected bytes, such as 500M, 1G or 1000000")
    return int(number) * UNITS[unit]
