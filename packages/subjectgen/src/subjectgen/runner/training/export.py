"""A folder for others to generate from: adapter, aggregators, experiment and model card, without the run around it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from subjectgen.core import InputError
from subjectgen.core.files import atomic_folder
from subjectgen.core.json_files import read_json
from subjectgen.core.weights import verify, write_checksums
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.trained import CHECKPOINTS, FACTS, FOLDER, RESOLVED, checkpoints, trained_folder
from subjectgen.runner.training.run_directory import METRICS, RUN, anchored

LORA = "lora.safetensors"
DIFFUSERS_LORA = "pytorch_lora_weights.safetensors"
"""The name under which diffusers looks for an adapter in a folder."""
CARD = "README.md"
LOCAL = ("dataset", "mixture")


def export(run: Path, out: Path, *, step: int | None = None, licence: str = "other") -> Path:
    """Write what generating needs into a new folder.

    Args:
        run: Folder of a run.
        out: New folder; it appears whole or not at all.
        step: Of a checkpoint; ``None``: what the run ended with, or its newest checkpoint.
        licence: Of the weights, for the model card: an identifier of the hub, such as ``apache-2.0``.

    Raises:
        InputError: No run there, no such checkpoint, or ``out`` exists.
    """
    if not (run / RUN).is_file() or not (run / RESOLVED).is_file():
        raise InputError(f"{run}: holds no run to export; expected a folder that subjectgen train wrote")
    if out.exists():
        raise InputError(f"{out}: exists; expected a new folder (--out)")
    source = _source(run, step)
    experiment = Experiment.read(run / RESOLVED)
    with atomic_folder(out) as folder:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            name = file.relative_to(source)
            target = folder / (DIFFUSERS_LORA if name == Path(LORA) else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        values = {"name": experiment.name, **experiment.values, "trained": "./"}
        text = yaml.safe_dump(anchored(_without_data(values), out), sort_keys=False)
        (folder / RESOLVED).write_text(text, encoding="utf-8")
        card = "\n".join(_card(run, experiment, read_json(source / FACTS), licence)) + "\n"
        (folder / CARD).write_text(card, encoding="utf-8")
        write_checksums(folder)
    return out


def _source(run: Path, step: int | None) -> Path:
    if step is None:
        found = trained_folder(str(run))
        if not (found / FACTS).is_file():
            raise InputError(f"{run}: has no checkpoint yet, so there is nothing to export")
        if found.parent.parent.name == CHECKPOINTS:
            verify(found.parent)
        return found
    folder = run / CHECKPOINTS / f"step-{step:08d}"
    if not (folder / FOLDER).is_dir():
        there = ", ".join(str(int(one.name.removeprefix("step-"))) for one in checkpoints(run)) or "none"
        raise InputError(f"{run}: no checkpoint of step {step}; there are: {there}")
    verify(folder)
    return folder / FOLDER


def _without_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment without the data it was trained on, which stays with who trained it; the card names it."""
    return {
        key: {inner: value for inner, value in found.items() if inner not in LOCAL}
        | {"phases": [{k: v for k, v in phase.items() if k not in LOCAL} for phase in found["phases"]]}
        if key == "training" and found
        else found
        for key, found in values.items()
    }


def _card(run: Path, experiment: Experiment, facts: Mapping[str, Any], licence: str) -> Iterator[str]:
    """A model card as the hub reads it."""
    said = read_json(run / RUN)
    bases = list(dict.fromkeys(_checkpoints(experiment)))
    tags = ["subject-driven-generation", "subjectgen", "text-to-image", *(["lora"] if _has_lora(experiment) else [])]
    header = {"license": licence, "library_name": "subjectgen", "tags": tags}
    yield "---"
    yield yaml.safe_dump(header | ({"base_model": bases} if bases else {}), sort_keys=False).rstrip()
    yield "---"
    yield from ("", f"# {experiment.name}", "", experiment.settings.description or "Trained with subjectgen.", "")
    yield from ("```sh", "subjectgen generate THIS_FOLDER --reference subject.jpg --prompt '...'", "```", "")
    if _has_lora(experiment):
        yield "The adapter alone loads in plain diffusers: `pipeline.load_lora_weights(THIS_FOLDER)`."
        yield ""
    yield from _table("Parts", _parts(experiment))
    yield from _table("Training", _training(experiment, facts, said, run))
    yield from _table("Data", {one["part"]["name"]: f"{one['samples']} samples" for one in said["datasets"]})
    yield from _table("Versions", {**said["versions"], **said["plugins"]})


def _parts(experiment: Experiment) -> dict[str, str]:
    return {part.where: f"{part.name} ({part.offer.distribution})" for part in experiment.parts.model()}


def _training(experiment: Experiment, facts: Mapping[str, Any], said: Mapping[str, Any], run: Path) -> dict[str, str]:
    settings = experiment.settings.training
    assert settings is not None  # or there would be no run
    phases = [f"{phase.name or '+'.join(phase.branches or ('all',))}: {phase.steps}" for phase in settings.phases]
    rows = {
        "steps": f"{facts['step']}" + (", averaged weights" if facts.get("averaged") else ""),
        "phases": ", ".join(phases),
        "batch size": str(settings.batch_size),
        "learning rate": f"{settings.learning_rate:g}, {settings.lr_schedule}",
        "seed": str(said["seed"]),
        "command": f"`{said['command']}`",
    }
    return rows | {f"loss ({phase})": f"{loss:.4f}" for phase, loss in _losses(run, facts["step"]).items()}


def _losses(run: Path, step: int) -> dict[str, float]:
    """The last logged loss of each phase up to a step."""
    found: dict[str, float] = {}
    if (run / METRICS).is_file():
        for line in (run / METRICS).read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            if values["step"] <= step:
                found[values["phase"]] = values["loss"]
    return found


def _table(title: str, rows: Mapping[str, str]) -> Sequence[str]:
    if not rows:
        return ()
    return (f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), "")


def _checkpoints(experiment: Experiment) -> Iterator[str]:
    """Checkpoints that are named by a hub's id."""
    for part in experiment.parts.model():
        name = getattr(part.config, "checkpoint", None)
        if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "package:")):
            yield name


def _has_lora(experiment: Experiment) -> bool:
    return getattr(experiment.parts.backbone.config, "lora", None) is not None
