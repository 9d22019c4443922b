"""Sheets show what generating from the weights of their step gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from subjectgen.core.images import to_pil
from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Request
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.trained import load_trained
from subjectgen.runner.training.phases import phase_data
from subjectgen.runner.training.positions import derived_seed
from subjectgen.runner.training.run import train
from subjectgen.runner.training.sheets import CELL, HEADER, sheets


def values(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def pixels(file: Path) -> torch.Tensor:
    with Image.open(file) as picture:
        return values(picture)


def test_the_last_sheet_is_what_the_finished_run_generates(tiny, tiny_experiment, tmp_path) -> None:
    changes = {"training": {"phases": [{"steps": 4}], "samples_every": 3, "samples_rows": 2}}
    experiment = tiny_experiment(changes)
    folder = train(experiment, tmp_path / "run").folder
    assert [file.name for file in sheets(folder)] == ["step-00000003.png", "step-00000004.png"]
    (data,) = phase_data(experiment)
    samples = [tiny.Pairs(tiny.Pairs.Config())[data.order.at(position).index] for position in range(2)]
    pipeline = SubjectPipeline(load_trained(build_system(tiny_experiment({"trained": str(folder)}))))
    seeds = [derived_seed(0, "sample", 0, position) for position in range(2)]
    made = pipeline.generate(Request.of(samples, seeds)).tensors
    last = folder / "samples" / "step-00000004"
    shown = pixels(sheets(folder)[-1])
    for row, (sample, image) in enumerate(zip(samples, made, strict=True)):
        assert torch.equal(pixels(last / f"{row + 1:02d}.png"), values(to_pil(image)))
        top = HEADER + row * ((shown.shape[1] - HEADER) // 2)
        for column, one in enumerate((sample.references[0].image, sample.target, image)):
            left = column * (shown.shape[2] // 3)
            cell = shown[:, top : top + CELL, left : left + CELL]
            middles = cell[:, CELL // 16 :: CELL // 8, CELL // 16 :: CELL // 8]
            assert torch.equal(middles, values(to_pil(one))), column
    before = pixels(folder / "samples" / "step-00000003" / "01.png")
    assert not torch.equal(before, pixels(last / "01.png"))  # other weights


@pytest.mark.parametrize("count", [1, 3])
def test_targets_of_other_sizes_are_generated_in_their_size(tiny_experiment, tmp_path, count: int) -> None:
    options = {"dataset": {"sizes": [8, 12]}, "buckets": True, "samples_every": 9, "samples_rows": count}
    changes = {"training": {**options, "phases": [{"steps": 1}], "batch_size": 2}}
    experiment = tiny_experiment(changes)
    folder = train(experiment, tmp_path / "run").folder
    (data,) = phase_data(experiment)
    sizes = [data.datasets[0][data.order.at(position).index].target.shape for position in range(count)]
    files = sorted((folder / "samples" / "step-00000001").glob("*.png"))
    assert [pixels(file).shape for file in files] == sizes
