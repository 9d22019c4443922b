"""The real DreamBench photos through the whole pipeline: loading, encoding, generation, saving."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

FOLDER = os.environ.get("SUBJECTGEN_DREAMBENCH")

pytestmark = pytest.mark.skipif(not FOLDER, reason="SUBJECTGEN_DREAMBENCH names no folder with the photos")


@pytest.fixture(scope="module")
def photos() -> list[Path]:
    assert FOLDER is not None
    found = [sorted(folder.glob("*.jpg"))[0] for folder in sorted(Path(FOLDER).iterdir()) if folder.is_dir()]
    assert len(found) == 30, "DreamBench has 30 subjects"
    return found


@pytest.fixture(scope="module")
def pipeline():
    from subjectgen.runner.generation.pipeline import SubjectPipeline

    experiment = Path(__file__).parents[1] / "experiments" / "toybox" / "demo.yaml"
    return SubjectPipeline.from_experiment(experiment, device="cpu")


def test_every_subject_is_loaded_and_encoded(photos, pipeline) -> None:
    from subjectgen.core import Sample, load_reference

    samples = [Sample(prompt="the toy in the snow", references=(load_reference(photo),)) for photo in photos]
    said = {name: branch.encode(samples).conditions for name, branch in pipeline.system.branches.items()}
    tokens, latents = said["mllm"].tokens, said["vae"].values[0]
    for encoded in (tokens.flatten(1), latents.flatten(1)):
        assert encoded.isfinite().all()
        assert torch.pdist(encoded.detach()).min() > 1e-3, "two photos are encoded alike"


def test_photos_become_images_on_disk(photos, tmp_path) -> None:
    from PIL import Image

    from subjectgen.runner.cli.main import main

    experiment = Path(__file__).parents[1] / "experiments" / "toybox" / "demo.yaml"
    for photo in photos[:3]:
        out = tmp_path / photo.parent.name
        words = ["--prompt", "the toy in the snow", "--prompt", "the toy at night", "--reference", photo]
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, ["generate", experiment, *words, "--out", out, "--steps", 6, "--device", "cpu"])))
        assert ended.value.code == 0
        paths = sorted(out.glob("*.png"))  # by number, which is the prompts' order
        assert len(paths) == 2
        snow, night = (Image.open(path).convert("L").resize((1, 1)).getpixel((0, 0)) for path in paths)
        assert snow > night + 30, "snow is brighter than night"
        assert json.loads(paths[0].with_suffix(".json").read_text())["references"] == [photo.name]


def test_another_photo_gives_another_image(photos, pipeline) -> None:
    images = [pipeline(prompt="the toy in the snow", references=[photo], steps=6).tensors[0] for photo in photos[:4]]
    for one in range(4):
        for other in range(one):
            assert (images[one] - images[other]).abs().mean() > 0.005
