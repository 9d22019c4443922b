"""``subjectgen data check``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from subjectgen.runner.cli.options import AsJson, DataSpec, Overrides
from subjectgen.runner.cli.progress import Counted, Loading


def check_data(
    spec: DataSpec,
    out: Annotated[
        Path | None, typer.Option(help="Also write report.json and a page with pictures.", metavar="FOLDER")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first N samples.", metavar="N")] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Batch for which samples that fill none are counted.", metavar="N")
    ] = 16,
    override: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Read every sample of a data set and tell counts, sizes and faults; exit code 1 if there are faults."""
    with Loading("opening the data set"):
        from subjectgen.runner.cli.data_specs import found_datasets
        from subjectgen.runner.data.scan import scan

        if out is not None:
            from subjectgen.core.disks import check_writable

            check_writable(out)
        parts = found_datasets(spec, override)
    scans = []
    for part in parts:
        with Counted(f"reading {part.name}", "samples") as counted:
            scans.append(scan(part, limit=limit, on_sample=counted))
    reports = [one.report(batch_size) for one in scans]
    typer.echo(json.dumps({"datasets": reports}, indent=2) if as_json else "\n\n".join(map(as_text, reports)))
    if out is not None:
        from subjectgen.runner.reports.data import write_data_page

        rows = [[(one.key, one.prompt, one.pictures) for one in found.shown] for found in scans]
        written = write_data_page(out, reports, rows, command=f"subjectgen data check {spec!r}")
        typer.echo(f"wrote {', '.join(map(str, written))}", err=as_json)
    if any(report["faults"] for report in reports):
        raise typer.Exit(1)


def as_text(report: Mapping[str, Any]) -> str:
    """A report for reading."""
    lines = [f"{report['dataset']['name']}: {report['samples']} samples, {report['read']} read without fault"]
    references = ", ".join(f"{count} with {number}" for number, count in report["references"].items())
    lines.append(f"references: {references or 'none'}; {report['subject_masks']} have a subject mask")
    if report["without_target"]:
        lines.append(f"without a target: {report['without_target']}")
    letters = ", ".join(f"{name} {value:g}" for name, value in report["prompt_letters"].items())
    lines.append(f"letters of a prompt: {letters or 'none'}")
    lines.append(f"sizes of targets (height x width), and what fills no batch of {report['batch_size']}:")
    lines += [
        f"  {one['height']} x {one['width']}: {one['samples']}, tail {one['tail']}" for one in report["sizes"][:20]
    ]
    if len(report["sizes"]) > 20:
        lines.append(f"  and {len(report['sizes']) - 20} more sizes")
    lines.append(f"  tails together: {report['tail']}")
    lines.append(f"faults: {report['faults'] or 'none'}")
    for fault in report["faults_by_reason"]:
        lines.append(f"  {fault['count']} x {fault['reason']}, such as")
        lines += [f"    {example}" for example in fault["examples"]]
    return "\n".join(lines)
