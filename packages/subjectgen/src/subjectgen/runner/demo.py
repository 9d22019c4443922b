"""``subjectgen demo``: toys that no training saw, in new scenes, under three schedules; scores, a sheet and a page."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from subjectgen.core import InputError, Sample, load_reference
from subjectgen.core.checkpoint import atomic_write
from subjectgen.core.images import fit_image, to_pil
from subjectgen.runner import sampling
from subjectgen.runner.generating import check_folder, open_pipeline, step_progress
from subjectgen.runner.pipeline import SubjectPipeline, check_prompts
from subjectgen.runner.saving import save_image, write_json

SCHEDULES: dict[str, dict[str, Any]] = {
    "mllm_only": {"tau1": 0.0, "tau2": 0.0},
    "vae_only": {"tau1": 1.0, "tau2": 1.0},
    "three_stage": {},
}
"""Overrides of the experiment's schedule (Table C of the paper)."""
OWN_PROMPTS = ("the toy in the snow", "the toy on the beach", "the toy at night")
TOYS, SCENES = 32, 3
SHEET_ROWS, CELL, HEADER = 8, 96, 24
PROBED = 24


def run_demo(
    out: Path,
    *,
    references: Sequence[Path] = (),
    prompts: Sequence[str] = (),
    experiment: str = "demo",
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run the demo, or generate from the user's own picture, and say where the results are."""
    started = time.monotonic()
    pictures = [load_reference(path) for path in references]  # before the models, so that a bad file is told at once
    check_folder(out)
    if prompts:
        check_prompts(prompts)
    if prompts and not pictures:
        raise InputError("--prompt: needs --reference, the picture of your own subject")
    pipeline = open_pipeline(_experiment(experiment), device=device)
    if pictures:
        _own_picture(pipeline, pictures, prompts or OWN_PROMPTS, out / "own", say)
    else:
        _held_out(pipeline, out, say)
    say(f"{time.monotonic() - started:.0f} seconds")


def _experiment(name: str) -> Path:
    known = Path("experiments/toybox") / f"{name}.yaml"
    path = known if known.is_file() else Path(name)
    if not path.exists():
        raise InputError(f"--experiment: got {name!r}; expected a YAML file or a name in experiments/toybox")
    return path


def schedules(pipeline: SubjectPipeline) -> dict[str, dict[str, Any]]:
    """The schedules to compare; an experiment without stages is shown as it is."""
    name = str(pipeline.system.experiment.settings.schedule["name"])
    return SCHEDULES if name.endswith("three_stage") else {name: {}}


def use_schedule(pipeline: SubjectPipeline, changes: Mapping[str, Any]) -> None:
    """Give the built system the experiment's schedule with some options changed."""
    pipeline.system.use_schedule({**pipeline.system.experiment.settings.schedule, **changes})


# -------------------------------------------------------------------------------------------------- held-out toys


def _held_out(pipeline: SubjectPipeline, out: Path, say: Callable[[str], None]) -> None:
    plugins = pipeline.system.plugins
    dataset = plugins.build("datasets", {"name": "held_out_toys", "toys": TOYS, "scenes": SCENES})
    samples = [dataset[index] for index in range(len(dataset))]
    seeds = list(range(len(samples)))
    judge = _metric(plugins).judge_accuracy()  # the judge is the same under every schedule
    scores: dict[str, Any] = {}
    images: dict[str, Tensor] = {}
    for name, changes in schedules(pipeline).items():
        use_schedule(pipeline, changes)
        with step_progress(name) as on_step:
            on_step.expect(-(-len(samples) // 32))
            images[name] = pipeline.generate(samples, seeds, on_step=on_step).tensors
        metric = _metric(plugins)
        metric.update(samples, list(images[name]))
        scores[name] = {**metric.compute(), **judge}
        changed = sensitivity(pipeline, samples[:: max(len(samples) // PROBED, 1)], seeds)
        scores[name] |= {"seed_change": changed.pop("seed_change"), "sensitivity": changed}
        say(_line(name, scores[name]))
    sheet = contact_sheet(samples, images)
    _write(out, scores, sheet, pipeline)
    for file in ("sheet.png", "index.html", "scores.json"):
        say(f"wrote {out / file}")


def _metric(plugins: Any) -> Any:
    return plugins.build("metrics", {"name": "toy_scores", "toys": TOYS})


def sensitivity(pipeline: SubjectPipeline, samples: list[Sample], seeds: list[int]) -> dict[str, float]:
    """Root-mean-square change of the image when one branch alone sees another subject's reference; by branch.

    0 means that the branch is ignored. ``seed_change`` is what another starting noise changes, for scale.
    """
    half = len(samples) // 2
    swapped = [
        Sample(prompt=one.prompt, references=other.references)
        for one, other in zip(samples, samples[half:] + samples[:half], strict=True)
    ]
    seeds = seeds[: len(samples)]
    plain = _generate(pipeline, samples, seeds, {})
    changes = {name: _generate(pipeline, samples, seeds, {name: swapped}) for name in pipeline.system.branches}
    changes["seed_change"] = _generate(pipeline, samples, [seed + 10_000 for seed in seeds], {})
    return {name: float((changed - plain).square().mean().sqrt()) for name, changed in changes.items()}


def _generate(
    pipeline: SubjectPipeline, samples: list[Sample], seeds: list[int], instead: Mapping[str, list[Sample]]
) -> Float[Tensor, "b 3 h w"]:
    system = pipeline.system
    size = system.experiment.settings.image
    start = sampling.noise(seeds, system.latent_shape(size.height, size.width))
    return system.autoencoder.decode(sampling.sample(system, samples, start, instead=instead)).cpu()


def _line(name: str, score: Mapping[str, Any]) -> str:
    pairs = (("scene_accuracy", "scene_judge"), ("shape_accuracy", "shape_judge"), ("identity_top1", "identity_judge"))
    parts = [f"{key} {score[key]:.1%} (judge {score[judge]:.1%})" for key, judge in pairs]
    changes = ", ".join(f"{branch} {value:.3f}" for branch, value in score["sensitivity"].items())
    return f"{name}: {', '.join(parts)}; sensitivity {changes}"


# ------------------------------------------------------------------------------------------------------- pictures


def contact_sheet(samples: list[Sample], images: Mapping[str, Tensor]) -> Image.Image:
    """Rows: references; columns: reference, then the prompts under each schedule, each with its words."""
    rows = min(SHEET_ROWS, TOYS)
    step = TOYS // rows
    sheet = Image.new("RGB", ((1 + SCENES * len(images)) * CELL, rows * CELL + HEADER), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in ((0, "reference"), *((1 + number * SCENES, name) for number, name in enumerate(images))):
        draw.text((column * CELL + 4, 6), name.replace("_", " "), fill="black")
    for row in range(rows):
        first = row * step * SCENES
        cells = [(samples[first].references[0].image, "")]
        shown = range(first, first + SCENES)
        cells += [(images[name][index], samples[index].prompt) for name in images for index in shown]
        for column, (cell, words) in enumerate(cells):
            corner = (column * CELL, HEADER + row * CELL)
            sheet.paste(to_pil(cell).resize((CELL, CELL), Image.Resampling.LANCZOS), corner)
            text = words.removeprefix("the toy ")
            draw.text((corner[0] + 4, corner[1] + CELL - 14), text, fill="white", stroke_width=1, stroke_fill="black")
    return sheet


def _write(out: Path, scores: Mapping[str, Any], sheet: Image.Image, pipeline: SubjectPipeline) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "sheet.png") as path:
        sheet.save(path, format="PNG")
    write_json(out / "scores.json", scores)
    with atomic_write(out / "index.html") as path:
        path.write_text(_page(scores, pipeline), encoding="utf-8")


def _page(scores: Mapping[str, Any], pipeline: SubjectPipeline) -> str:
    keys = [key for key in next(iter(scores.values())) if key != "sensitivity"]
    rows = "".join(
        f"<tr><th>{key}</th>" + "".join(f"<td>{score[key]:.3f}</td>" for score in scores.values()) + "</tr>"
        for key in keys
    )
    branches = list(next(iter(scores.values()))["sensitivity"])
    rows += "".join(
        f"<tr><th>sensitivity to {name}</th>"
        + "".join(f"<td>{score['sensitivity'][name]:.3f}</td>" for score in scores.values())
        + "</tr>"
        for name in branches
    )
    heads = "".join(f"<th>{name}</th>" for name in scores)
    settings = html.escape(json.dumps(dict(pipeline.system.experiment.settings.schedule), indent=2))
    return (
        "<!doctype html><meta charset=utf-8><title>subjectgen demo</title>"
        "<style>body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left}"
        "img{max-width:100%}</style>"
        f"<h1>subjectgen demo</h1><p>{TOYS} toys that no training saw, {SCENES} scenes each. The judge's own accuracy "
        "on real renders stands beside its verdicts (<code>*_judge</code>). Sensitivity: change of the image when one "
        "branch alone sees another toy's reference.</p><img src=sheet.png alt='contact sheet'>"
        f"<table><tr><th></th>{heads}</tr>{rows}</table><h2>Schedule</h2><pre>{settings}</pre>"
    )


def _own_picture(
    pipeline: SubjectPipeline, references: list[Any], prompts: Sequence[str], out: Path, say: Callable[[str], None]
) -> None:
    """Generate from the user's picture under all schedules."""
    size = pipeline.system.experiment.settings.image
    columns: list[Tensor] = []
    for name, changes in schedules(pipeline).items():
        use_schedule(pipeline, changes)
        result = pipeline(prompt=list(prompts), references=references)
        for number, (image, record) in enumerate(zip(result.images, result.records, strict=True)):
            path = out / f"{name}-{number}.png"
            save_image(image, path, record)
            say(f"wrote {path}")
        columns.append(torch.cat(list(result.tensors), dim=-2))
    first = fit_image(references[0].image, (size.height, size.width), "pad")
    blank = torch.ones(3, size.height * (len(prompts) - 1), size.width)
    sheet = to_pil(torch.cat([torch.cat([first, blank], dim=-2), *columns], dim=-1))
    sheet = sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)
    with atomic_write(out / "sheet.png") as path:
        sheet.save(path, format="PNG")
    say(f"wrote {out / 'sheet.png'} (columns: reference, {', '.join(schedules(pipeline))})")
