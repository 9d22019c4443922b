"""Trained parts remember the encoders they were trained with, and say what changed when these are others."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.fingerprint import TOLERANCE, distance, fixed_sample, kept
from subjectgen.runner.system.trained import FACTS, load_trained, save_trained, warn_of_other_encoders


@pytest.fixture
def saved(system: Any, tmp_path: Path) -> Path:
    save_trained(system(), tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def complaints(write: Any, plugins: Any, saved: Path, checkpoints: Path):
    """What loading says of encoders, with these options of the MLLM; and how often the MLLM ran."""

    def complaints(**options: Any) -> tuple[list[str], int]:
        encoder = {"name": "internvl3", "checkpoint": str(checkpoints / "internvl3"), "dtype": "float32", **options}
        path = write({"branches": {"mllm": {"encoder": encoder}}, "trained": str(saved)})
        system = load_trained(build_system(Experiment.read(path, plugins=plugins)))
        runs: list[int] = []
        system.branches["mllm"].encoder.model.register_forward_hook(lambda *_: runs.append(1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_other_encoders(system)
        return [str(one.message) for one in caught if FACTS in str(one.message)], len(runs)

    return complaints


def test_the_same_encoders_load_without_a_word_and_without_running(complaints) -> None:
    assert complaints() == ([], 0)


def test_a_moved_checkpoint_is_the_same(complaints, checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / "internvl3", tmp_path / "moved")
    assert complaints(checkpoint=str(folder)) == ([], 0)


def test_rounding_of_another_precision_is_no_matter(complaints) -> None:
    assert complaints(dtype="bfloat16")[0] == []


def test_other_weights_are_named(complaints, checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / "internvl3", tmp_path / "other")
    for file in folder.glob("*.safetensors"):
        weights = {name: torch.randn_like(w) * 0.1 if w.ndim > 1 else w for name, w in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    (said,), _ = complaints(checkpoint=str(folder))
    assert "branches.mllm.encoder: the features (" in said
    assert "differ by" in said
    assert said.endswith("Changed: the model's weights")


def test_another_processor_is_named(complaints, checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / "internvl3", tmp_path / "other")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    (said,), _ = complaints(checkpoint=str(folder))
    assert said.endswith("the prepared pictures (processor)")


def test_another_library_is_named_only_where_features_differ(complaints, saved: Path) -> None:
    stored = json.loads((saved / FACTS).read_text())
    stored["encoders"]["versions"]["transformers"] = "5.0.0"
    (saved / FACTS).write_text(json.dumps(stored))
    assert complaints()[0] == []
    features = stored["encoders"]["branches.mllm.encoder"]["features"]
    last = max(features)
    features[last]["values"] = [-value for value in features[last]["values"]]
    (saved / FACTS).write_text(json.dumps(stored))
    (said,), _ = complaints()
    assert "Changed: transformers 5.0.0 -> " in said


def test_rounding_to_bfloat16_is_no_difference_and_another_order_is() -> None:
    values = torch.randn(1, 40, 96, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0] = 1e4  # as language models have them
    assert distance(kept(values), kept(values.bfloat16())) < TOLERANCE / 2
    assert distance(kept(values), kept(values.flip(1))) > 0.5
    assert distance(kept(values), kept(values * 2)) > TOLERANCE
    assert distance(kept(values), kept(values[:, :39])) == math.inf
    assert distance(kept(values), kept(values * math.nan)) == math.inf


def test_the_fixed_picture_is_in_range_and_not_symmetric() -> None:
    image = fixed_sample().references[0].image
    assert 0 <= image.min() < 0.05
    assert 0.95 < image.max() <= 1
    assert all(not torch.allclose(image, image.flip(axis), atol=0.1) for axis in (1, 2))
