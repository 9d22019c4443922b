"""Tiny pictures and labels in the layouts of real data."""

import json
from pathlib import Path

import pytest
from PIL import Image

COLOURS = ("red", "green", "blue", "yellow", "white")


@pytest.fixture
def picture(tmp_path: Path):
    """Write a picture of a size (height, width); its left half is darker, so that turning it shows."""

    def picture(name: str, size: tuple[int, int] = (8, 12), colour: str = "red", **options) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", size[::-1], colour)
        image.paste("black", (0, 0, max(1, size[1] // 3), max(1, size[0] // 2)))
        image.save(path, **options)
        return name

    return picture


@pytest.fixture
def mask(tmp_path: Path):
    """Write a mask whose upper half is inside."""

    def mask(name: str, size: tuple[int, int] = (8, 12)) -> str:
        image = Image.new("L", size[::-1], 0)
        image.paste(255, (0, 0, size[1], max(1, size[0] // 2)))
        image.save(tmp_path / name)
        return name

    return mask


def label(number: int, **changes) -> dict:
    """A label of UNO-1M."""
    first, second = f"split1/a_{number}.png", f"split1/b_{number}.png"
    made = {
        "img_path1": first,
        "img_path2": second,
        "caption": {
            "img_path1": f"Thing {number} on a table",
            "img_path2": f"Thing {number} in the snow",
            "judgment": "same",
            "subject": ["Thing"],
        },
        "vlm_filter_cot": {"score_part": {"Colour": 4.0}, "score_final": 4.0},
    }
    return {**made, **changes}


def scored(number: int, score: object) -> dict:
    return label(number, vlm_filter_cot={"score_part": {}, "score_final": score})


@pytest.fixture
def uno(tmp_path: Path, picture):
    """Write labels and their pictures; returns the labels' file."""

    def uno(labels: list, sizes: tuple[tuple[int, int], ...] = ((8, 12), (12, 8), (8, 8))) -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        for number, one in enumerate(labels):
            for key in ("img_path1", "img_path2"):
                name = one.get(key) if isinstance(one, dict) else None
                if isinstance(name, str) and ".." not in name and not name.startswith("/"):
                    picture(f"images/{name}", sizes[number % len(sizes)], COLOURS[number % len(COLOURS)])
        file = tmp_path / "labels.json"
        file.write_text(json.dumps(labels), encoding="utf-8")
        return file

    return uno
