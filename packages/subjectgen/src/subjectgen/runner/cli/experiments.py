"""Finding an experiment by file, folder or name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from subjectgen.core import InputError, nearest

EXPERIMENTS = Path("experiments")
"""In a checkout."""
SHIPPED = "experiments"
"""Inside the installed package."""


def find_experiment(name: str) -> str:
    """A file, a folder or ``package:...`` as it is, or the one YAML of that name among the experiments.

    Those of the working directory come before those that the package ships.

    Raises:
        InputError: Nothing of that name; says what there is.
    """
    if name.startswith("package:") or (name and Path(name).exists()):
        return name
    known = [file for folder in folders() for file in sorted(folder.rglob("*.yaml"))]
    named = [file for file in known if name in (file.stem, f"{file.parent.name}/{file.stem}")]
    first = sorted(named, key=lambda file: file.parent.name != "toybox")
    if first:
        return str(first[0])
    where = ", ".join(map(str, folders())) or "no experiments/ here"
    hint = nearest(Path(name).stem, [file.stem for file in known])
    raise InputError(f"experiment {name!r}: no such file, and no experiment of that name ({where}){hint}")


def folders() -> list[Path]:
    """Where experiments are."""
    shipped = Path(str(resources.files("subjectgen.runner").joinpath(SHIPPED)))
    return [folder for folder in (EXPERIMENTS, shipped) if folder.is_dir()]
