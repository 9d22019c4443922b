"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = {"help_option_names": ["-h", "--help"]}
"""Settings of every command."""
FORMS = "a mask picture, a box left,top,right,bottom in pixels or shares, find:WORDS, or '' for none."
ExperimentPath = Annotated[
    str, typer.Argument(help="Experiment YAML, or the name of one in experiments/.", metavar="EXPERIMENT")
]
OptionalExperiment = Annotated[
    str | None, typer.Argument(help="Experiment YAML, or the name of one in experiments/.", metavar="EXPERIMENT")
]
TrainedPath = Annotated[
    str,
    typer.Argument(
        help="Experiment YAML, the name of one in experiments/, or a folder that `train` wrote.", metavar="EXPERIMENT"
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", help="Override a key: --set schedule.steps=10. May be repeated.", metavar="KEY=VALUE"),
]
DataSpec = Annotated[
    str,
    typer.Argument(
        help="A data set, '{name: uno_1m, labels: ...}', or an experiment, whose training data are meant.",
        metavar="SPEC",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 ...; by default cuda where there is one.", metavar="DEVICE")
]
Prompts = Annotated[list[str], typer.Option("--prompt", help="Prompt. May be repeated.", metavar="TEXT")]
References = Annotated[
    list[Path],
    typer.Option(
        "--reference", help="Image file of the subject. May be repeated: every prompt sees all.", metavar="FILE"
    ),
]
Seeds = Annotated[
    list[int], typer.Option("--seed", min=0, max=2**63 - 1, help="Seed. May be repeated.", metavar="NUMBER")
]
