"""``subjectgen demo``: the comparisons that an experiment names, or your own picture under its variants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from subjectgen.core import InputError, Reference, nearest
from subjectgen.core.files import atomic_write
from subjectgen.core.images import fit_image, to_pil
from subjectgen.runner.comparing import Compared, compare, variants
from subjectgen.runner.contact_sheet import contact_sheet, page
from subjectgen.runner.experiment import ComparisonSettings
from subjectgen.runner.generating import check_folder, open_pipeline
from subjectgen.runner.pipeline import SubjectPipeline, check_prompts
from subjectgen.runner.references import ReferenceFiles
from subjectgen.runner.saving import save_image, write_json

EXPERIMENTS = Path("experiments")
OWN_PROMPTS = ("the toy in the snow", "the toy on the beach", "the toy at night")
HELD_OUT = ComparisonSettings(
    dataset={"name": "held_out_toys", "toys": 32, "scenes": 3}, metrics=({"name": "toy_scores", "toys": 32},)
)
"""For experiments that name no comparison."""


def run_demo(
    out: Path | None = None,
    *,
    references: ReferenceFiles | None = None,
    prompts: Sequence[str] = (),
    experiment: str = "demo",
    overrides: Iterable[str] = (),
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run the experiment's comparisons, or generate from the user's own picture, and say where the results are.

    Args:
        out: Folder for the results; by default ``out/`` and the experiment's file name.
        references: The user's own pictures instead of the comparisons' samples.
        prompts: For the user's own pictures.
        experiment: A YAML file, or the name of one below ``experiments/``.
        overrides: ``key=value`` as for other commands.
        device: Where to run.
        say: What takes each line of the report.
    """
    started = time.monotonic()
    file = find_experiment(experiment)
    out = out or Path("out") / file.stem
    pictures = references.read() if references else []  # before the models, so that a bad file is told at once
    check_folder(out)
    if prompts:
        check_prompts(prompts)
    if prompts and not pictures:
        raise InputError("--prompt: needs --reference, the picture of your own subject")
    pipeline = open_pipeline(file, overrides=overrides, device=device)
    if pictures:
        _own_picture(pipeline, pictures, prompts or OWN_PROMPTS, out / "own", say)
    else:
        _comparisons(pipeline, out, say)
    say(f"{time.monotonic() - started:.0f} seconds")


def find_experiment(name: str) -> Path:
    """A file or run directory, or the one YAML of that name below ``experiments/``."""
    if Path(name).exists() and name:
        return Path(name)
    known = sorted(EXPERIMENTS.glob(f"*/{name}.yaml"), key=lambda path: path.parent.name != "toybox")
    if not known:
        names = [path.stem for path in EXPERIMENTS.glob("*/*.yaml")]
        hint = nearest(name, names)
        raise InputError(f"--experiment: got {name!r}; expected a YAML file or the name of one in {EXPERIMENTS}{hint}")
    return known[0]


def comparisons(pipeline: SubjectPipeline) -> dict[str, ComparisonSettings]:
    """Those of the experiment; without any, held-out toys with the experiment as it is."""
    settings = pipeline.system.experiment.settings
    if settings.comparisons:
        return settings.comparisons
    return {"toys": HELD_OUT.model_copy(update={"variants": {str(settings.schedule["name"]): {}}})}


def _comparisons(pipeline: SubjectPipeline, out: Path, say: Callable[[str], None]) -> None:
    results = [compare(pipeline, name, settings, say=say) for name, settings in comparisons(pipeline).items()]
    out.mkdir(parents=True, exist_ok=True)
    files = [_sheet_name(result, results) for result in results]
    for result, file in zip(results, files, strict=True):
        with atomic_write(out / file) as path:
            contact_sheet(result).save(path, format="PNG")
    write_json(out / "scores.json", {name: scores for result in results for name, scores in result.scores.items()})
    with atomic_write(out / "index.html") as path:
        text = page(list(zip(results, files, strict=True)), pipeline.system.experiment.settings.schedule)
        path.write_text(text, encoding="utf-8")
    for file in (*files, "index.html", "scores.json"):
        say(f"wrote {out / file}")


def _sheet_name(result: Compared, results: Sequence[Compared]) -> str:
    return "sheet.png" if len(results) == 1 else f"sheet-{result.name}.png"


def _own_picture(
    pipeline: SubjectPipeline,
    references: list[Reference],
    prompts: Sequence[str],
    out: Path,
    say: Callable[[str], None],
) -> None:
    """Generate from the user's picture under all variants of the first comparison."""
    size = pipeline.system.experiment.settings.image
    changes = next(iter(comparisons(pipeline).values())).all_changes()
    columns: list[Tensor] = []
    for name, changed in variants(pipeline, changes):
        result = changed(prompt=list(prompts), references=references)
        for number, (image, record) in enumerate(zip(result.images, result.records, strict=True)):
            path = out / f"{name}-{number}.png"
            save_image(image, path, record)
            say(f"wrote {path}")
        columns.append(torch.cat(list(result.tensors), dim=-2))
    sheet = _side_by_side([fit_image(references[0].image, (size.height, size.width), "pad"), *columns])
    with atomic_write(out / "sheet.png") as path:
        sheet.save(path, format="PNG")
    say(f"wrote {out / 'sheet.png'} (columns: reference, {', '.join(changes)})")


def _side_by_side(columns: Sequence[Tensor]) -> Image.Image:
    """Pictures of any heights, doubled in size, on white."""
    pictures = [to_pil(column) for column in columns]
    sheet = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)
