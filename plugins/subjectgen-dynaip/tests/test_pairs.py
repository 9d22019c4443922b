"""Training pairs from a folder: what the samples are, and what is said of lines that cannot be used."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from pydantic import ValidationError

from subjectgen.core import InputError, fit_image, load_mask, load_reference
from subjectgen.testing import DatasetContract
from subjectgen_dynaip.pairs import INDEX, CrossPairs, IntraPairs, Pairs, read_fields

Write = Callable[[Sequence[Mapping[str, Any] | str]], Path]

INTRA = {"image": "a.png", "mask": "a-mask.png", "caption": "a duck on the grass", "name": "duck"}
CROSS = {"reference": "a.png", "reference_mask": "a-mask.png", "target": "b.png", "caption": "a duck in the snow"}


def save(path: Path, seed: int, height: int = 30, width: int = 40) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, height: int = 30, width: int = 40, box: tuple[int, int, int, int] = (12, 8, 28, 26)) -> None:
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    mask.save(path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A folder with two pictures, a mask and an index of these lines."""
    save(tmp_path / "a.png", 0)
    save(tmp_path / "b.png", 1, 50, 20)
    save_mask(tmp_path / "a-mask.png")

    def index(lines: Sequence[Mapping[str, Any] | str]) -> Path:
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / INDEX).write_text(text, encoding="utf-8")
        return tmp_path

    return index


class TestIntraPairs(DatasetContract):
    @pytest.fixture
    def dataset(self, write: Write) -> IntraPairs:
        other = {**INTRA, "caption": "a duck, grün"}
        return IntraPairs(IntraPairs.Config(folder=write([INTRA, "", other, {**INTRA, "name": "other"}]), size=16))


class TestCrossPairs(DatasetContract):
    @pytest.fixture
    def dataset(self, write: Write) -> CrossPairs:
        swapped = {"reference": "b.png", "target": "a.png", "caption": "two", "name": "duck"}
        return CrossPairs(CrossPairs.Config(folder=write([CROSS, swapped]), size=(8, 12)))


# ---------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("size", [24, (20, 36)])
def test_an_intra_pair_is_a_picture_its_mask_and_itself(size: int | tuple[int, int], write: Write) -> None:
    """Mask and picture are cut alike."""
    folder = write([INTRA])
    sample = IntraPairs(IntraPairs.Config(folder=folder, size=size))[0]
    expected = fit_image(load_reference(folder / "a.png").image, size, "crop")
    (reference,) = sample.references
    assert sample.prompt == "a duck on the grass"
    assert reference.name == "duck"
    assert torch.equal(sample.target, expected)
    assert torch.equal(reference.image, expected)
    assert torch.equal(reference.subject_mask, fit_image(load_mask(folder / "a-mask.png"), size, "crop"))


def test_a_cross_pair_keeps_its_reference_and_fits_its_target(write: Write) -> None:
    folder = write([CROSS, {**CROSS, "name": "duck"}])
    dataset = CrossPairs(CrossPairs.Config(folder=folder, size=16))
    (reference,) = dataset[0].references
    assert torch.equal(reference.image, load_reference(folder / "a.png").image)
    assert torch.equal(reference.subject_mask, load_mask(folder / "a-mask.png"))
    assert reference.region_mask is None
    assert torch.equal(dataset[0].target, fit_image(load_reference(folder / "b.png").image, 16, "crop"))
    files = {key: CROSS[key] for key in ("reference", "reference_mask", "target")}
    assert [sample.facts for sample in dataset] == [
        {"line": 1, "files": files},
        {"subject": "duck", "line": 2, "files": files},
    ]


def test_a_reference_without_a_mask(write: Write) -> None:
    line = {key: value for key, value in CROSS.items() if key != "reference_mask"}
    assert CrossPairs(CrossPairs.Config(folder=write([line]), size=8))[0].references[0].subject_mask is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(captions=st.lists(st.text(st.characters(codec="utf-8")).filter(str.strip), min_size=1, max_size=5))
def test_any_caption_comes_back_whatever_is_between_the_lines(captions: list[str], write: Write) -> None:
    """Also of the languages of the world, after blank lines, with a byte order mark and Windows' line ends."""
    folder = write([])
    lines = "\r\n\r\n".join(json.dumps({**INTRA, "caption": text}, ensure_ascii=False) for text in captions)
    (folder / INDEX).write_bytes(lines.encode("utf-8-sig"))
    dataset = IntraPairs(IntraPairs.Config(folder=folder, size=4))
    assert [dataset[place].prompt for place in range(len(dataset))] == captions


def test_a_dataset_of_many_lines_is_small(write: Write) -> None:
    """What goes to each worker is the place of the lines, not the lines."""
    sizes = []
    for count in (100, 1100):
        dataset = IntraPairs(IntraPairs.Config(folder=write([INTRA] * count), size=4))
        sizes.append(len(pickle.dumps(dataset)))
    assert (sizes[1] - sizes[0]) / 1000 <= 16


# ------------------------------------------------------------------------------------------------ broken lines

BROKEN = {
    "{": "not a line of JSON",
    "[1, 2]": r"got \[1, 2\]; expected a mapping with keys image, mask, caption, name",
    json.dumps({**INTRA, "captoin": "x"}): "unknown key 'captoin'; did you mean 'caption'",
    json.dumps(
        {key: value for key, value in INTRA.items() if key != "mask"}
    ): "mask: missing; expected keys image, mask",
    json.dumps({**INTRA, "caption": "  "}): "caption: got '  '; expected text that is not empty",
    json.dumps({**INTRA, "name": 3}): "name: got 3; expected text",
    json.dumps({**INTRA, "image": "c.png"}): "image: no such file 'c.png'",
}


@pytest.mark.parametrize(("line", "message"), BROKEN.items(), ids=[text.split(";")[0] for text in BROKEN.values()])
def test_a_broken_line_is_an_error_or_left_out(line: str, message: str, write: Write) -> None:
    folder = write([INTRA, "", line, {**INTRA, "caption": "last"}])
    with pytest.raises(InputError, match=message) as caught:
        IntraPairs(IntraPairs.Config(folder=folder, broken="error"))
    assert str(caught.value).startswith(f"{folder / INDEX}:3: ")
    with pytest.warns(UserWarning, match=rf"1 of 3 lines .* left out, such as\n  .*:3: {message}"):
        dataset = IntraPairs(IntraPairs.Config(folder=folder, size=8))
    assert [dataset[place].prompt for place in range(len(dataset))] == [INTRA["caption"], "last"]
    assert [dataset[place].key for place in range(len(dataset))] == ["line-000001", "line-000004"]


def test_one_warning_counts_all_and_shows_three(write: Write) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        IntraPairs(IntraPairs.Config(folder=write([INTRA, *BROKEN])))
    (warning,) = caught
    assert f"{len(BROKEN)} of {len(BROKEN) + 1} lines" in str(warning.message)
    assert str(warning.message).count("\n") == 3


def test_no_folder_no_index_no_line(write: Write, tmp_path: Path) -> None:
    for cls in (IntraPairs, CrossPairs):
        with pytest.raises(InputError, match="nowhere: no such folder"):
            cls(cls.Config(folder=tmp_path / "nowhere"))
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(InputError, match=r"no such file; did you mean 'index\.json'"):
        IntraPairs(IntraPairs.Config(folder=tmp_path))
    with pytest.raises(InputError, match=r"no line of 7 can be used\n  .*:1: not a line"):
        IntraPairs(IntraPairs.Config(folder=write(list(BROKEN))))
    with pytest.raises(InputError, match="no line of 0"):
        IntraPairs(IntraPairs.Config(folder=write([""])))


def test_options_are_checked(tmp_path: Path) -> None:
    for options in ({"size": 0}, {"size": (8, -1)}, {"broken": "ignore"}, {"fodler": tmp_path}):
        with pytest.raises(ValidationError):
            IntraPairs.Config(**{"folder": tmp_path, **options})


# --------------------------------------------------------------------------------------------- broken pictures


def failing(cls: type[Pairs], folder: Path, **options: Any) -> str:
    dataset = cls(cls.Config(folder=folder, **options))
    with pytest.raises(InputError) as caught:
        dataset[1]
    assert dataset[0].prompt
    return str(caught.value)


def test_a_picture_that_cannot_be_decoded_names_the_line(write: Write) -> None:
    folder = write([CROSS, {**CROSS, "target": "half.png"}])
    (folder / "half.png").write_bytes((folder / "a.png").read_bytes()[:500])
    message = failing(CrossPairs, folder, size=8)
    assert message.startswith(f"{folder / INDEX}:2: ")
    assert "half.png" in message


def test_masks_that_do_not_fit_name_the_line(write: Write) -> None:
    folder = write([INTRA, {**INTRA, "mask": "other.png"}])
    save_mask(folder / "other.png", 31, 40)
    message = f"{folder / INDEX}:2: mask 'other.png' is "
    assert failing(IntraPairs, folder).startswith(message + "31x40; expected the size of its picture, 30x40")
    save_mask(folder / "other.png", box=(0, 0, 0, 0))
    empty = failing(IntraPairs, folder)
    assert empty.startswith(f"{folder / INDEX}:2: mask ")
    assert "other.png' is empty" in empty
    save_mask(folder / "other.png", box=(0, 0, 3, 30))  # outside of the square that is cut from the middle
    assert failing(IntraPairs, folder, size=30).startswith(f"{folder / INDEX}:2: mask 'other.png', cut to the target")


def test_an_index_that_changed_is_noticed(write: Write) -> None:
    folder = write([INTRA, {**INTRA, "caption": "another"}])
    dataset = IntraPairs(IntraPairs.Config(folder=folder, size=8))
    write([{**INTRA, "caption": "a caption that is longer than the first"}, INTRA])
    with pytest.raises(InputError, match=r"index\.jsonl:2: not a line of JSON"):
        dataset[1]


def test_fields_are_given_back_as_they_are() -> None:
    assert read_fields({"a": " x "}, ("a",), ("b",), "here") == {"a": " x "}
    with pytest.raises(InputError, match="here: b: got None; expected text"):
        read_fields({"a": "x", "b": None}, ("a",), ("b",), "here")
