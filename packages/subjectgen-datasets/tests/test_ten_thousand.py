"""A set of UNO-1M's layout with 10,000 pairs, from its folder and from shards, over four ranks, with broken files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .conftest import scored

PAIRS, BELOW, ABSURD = 10_000, 200, 37
SIZES = ((8, 8), (8, 12), (12, 8))
BROKEN = {"target: no such file": range(100, 9000, 977), "target: cannot be decoded": range(55, 9000, 1503)}
STREAM = Path(__file__).with_name("stream.py")


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    """Few pictures, many names for them."""
    root = tmp_path_factory.mktemp("uno")
    folder = root / "images" / "split1"
    folder.mkdir(parents=True)
    for number, size in enumerate(SIZES):
        Image.effect_noise(size[::-1], 80).convert("RGB").save(root / f"{number}.jpg")
    (root / "cut.jpg").write_bytes((root / "0.jpg").read_bytes()[:-120])
    rows = []
    for number in range(PAIRS + BELOW + ABSURD):
        score = 4.0 if number < PAIRS else 3.5 if number < PAIRS + BELOW else 131184.67
        rows.append(scored(number, score))
        os.link(root / "0.jpg", folder / f"a_{number}.png")
        if number not in BROKEN["target: no such file"]:
            cut = number in BROKEN["target: cannot be decoded"]
            os.link(root / ("cut.jpg" if cut else f"{number % 3}.jpg"), folder / f"b_{number}.png")
    file = root / "labels.json"
    file.write_text(json.dumps(rows))
    return file


def stream(spec: dict[str, Any], shards: Path | None = None) -> dict[str, Any]:
    """In a process of its own, without the checks of shapes that tests switch on: they cost ten times the reading."""
    command = [sys.executable, str(STREAM), json.dumps(spec), *([str(shards)] if shards else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_folder_and_shards_give_the_same_keys_over_four_ranks(labels, tmp_path) -> None:
    planted = {reason: len(numbers) for reason, numbers in BROKEN.items()}
    broken = {number for numbers in BROKEN.values() for number in numbers}
    expected = [f"pair-{number:07d}" for number in range(PAIRS) if number not in broken]

    folder = stream({"name": "uno_1m", "labels": str(labels)}, tmp_path / "shards")
    assert folder["samples"] == PAIRS
    assert folder["left_out"] == {"score_final is absurd": ABSURD}
    assert folder["unwanted"] == BELOW
    assert folder["faults"] == planted
    assert [len(rank) for rank in folder["ranks"]] == [
        PAIRS // 4 - sum(number % 4 == rank for number in broken) for rank in range(4)
    ]
    assert sorted(key for rank in folder["ranks"] for key in rank) == expected  # each once: no overlap, no loss
    assert folder["packed"] == len(expected)
    assert folder["packed_left_out"] == planted
    assert len(list((tmp_path / "shards").glob("*.tar"))) > 3

    shards = stream({"name": "tar_shards", "shards": str(tmp_path / "shards" / "*.tar")})
    assert shards["samples"] == len(expected)
    assert shards["faults"] == {}
    assert sorted(key for rank in shards["ranks"] for key in rank) == expected
    assert folder["sizes"].keys() == shards["sizes"].keys() == {f"{height}x{width}" for height, width in SIZES}
    assert sum(folder["sizes"].values()) == PAIRS
    assert sum(shards["sizes"].values()) == len(expected)
