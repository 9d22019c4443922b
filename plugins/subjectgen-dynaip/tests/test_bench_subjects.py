"""The subjects of DynaIP-Bench: folders, lists, real photos, and what is said where something is wrong."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from subjectgen.core import InputError, load_mask, load_reference
from subjectgen_dynaip.bench import DynaIPBench, read_subjects

DREAMBENCH = os.environ.get("SUBJECTGEN_DREAMBENCH")


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def bench(folder: Path, **options: Any) -> DynaIPBench:
    return DynaIPBench(DynaIPBench.Config(**{"folder": folder, "height": 48, "width": 48, **options}))


def test_words_come_from_file_names(tmp_path: Path) -> None:
    words = {"corgi": "corgi", "teddy_bear-02": "teddy bear", "dog2": "dog", "R2-D2": "R2 D", "42": "42"}
    for name in words:
        save(tmp_path / "object" / f"{name}.jpg")
    (tmp_path / "object" / "notes.txt").write_text("not a picture")
    found = read_subjects(tmp_path)
    assert {subject.name: subject.word for subject in found} == words
    assert {subject.type for subject in found} == {"object"}


def test_files_of_other_systems_are_no_subjects(tmp_path: Path) -> None:
    """What macOS and Windows leave beside pictures were subjects of their own, and masks of white."""
    for name in ("corgi", "tabby"):
        save(tmp_path / "living" / f"{name}.jpg")
        Image.new("L", (8, 6), 255).save(tmp_path / "living" / f"{name}.mask.png")
        for copy in (f"._{name}.jpg", f"._{name}.mask.png", f".{name}.png"):
            (tmp_path / "living" / copy).write_bytes(b"\0\x05\x16\x07")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "living" / name).touch()
    found = read_subjects(tmp_path)
    assert [subject.name for subject in found] == ["corgi", "tabby"]
    assert [subject.mask and subject.mask.name for subject in found] == ["corgi.mask.png", "tabby.mask.png"]
    assert len(bench(tmp_path, types=("living+living",), pairs=6)) == 6


def test_masks_are_masks_in_capitals_too(tmp_path: Path) -> None:
    save(tmp_path / "object" / "vase.JPG")
    Image.new("L", (8, 6), 255).save(tmp_path / "object" / "vase.MASK.PNG")
    (subject,) = read_subjects(tmp_path)
    assert (subject.name, subject.mask) == ("vase", tmp_path / "object" / "vase.MASK.PNG")


def test_a_mask_of_zeros_and_ones_selects_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / "object" / f"{name}.png")
        Image.new("L", (8, 6), 1).save(tmp_path / "object" / f"{name}.mask.png")
    dataset = bench(tmp_path, types=("object+object",), pairs=1)
    assert all(torch.equal(reference.subject_mask, torch.ones(1, 6, 8)) for reference in dataset[0].references)
    Image.new("L", (8, 6), 0).save(tmp_path / "object" / "a.mask.png")
    with pytest.raises(InputError, match=r"subject mask .*a\.mask\.png' is empty"):
        dataset[0]


LISTED = """
corgi: {type: living, class: dog, image: photos/1.png, mask: photos/1-mask.png}
vase:
  type: object
  class: vase
  image: photos/2.png
"""


def test_subjects_may_be_listed(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "1.png")
    save(tmp_path / "photos" / "2.png", 1)
    Image.new("L", (8, 6), 255).save(tmp_path / "photos" / "1-mask.png")
    (tmp_path / "subjects.yaml").write_text(LISTED)
    sample = bench(tmp_path, types=("living+object",), pairs=1)[0]
    assert sample.prompt.startswith("a dog and a vase ")
    corgi, vase = sample.references
    assert (corgi.name, vase.name) == ("corgi", "vase")
    assert torch.equal(corgi.subject_mask, load_mask(tmp_path / "photos" / "1-mask.png"))
    assert torch.equal(vase.image, load_reference(tmp_path / "photos" / "2.png").image)


WRONG = {
    "corgi: {type: livng, class: dog, image: a.png}": r":1: corgi: type: got 'livng'; .*did you mean 'living'",
    "\ncorgi: {type: living, image: a.png}": r":2: corgi: class: missing; expected keys type, class, image",
    "corgi: {type: living, class: dog, image: b.png}": r":1: corgi: image: no such file .*b\.png",
    "corgi: {type: living, class: dog, image: a.png, masc: a.png}": "unknown key 'masc'; did you mean 'mask'",
    "corgi: a.png": "got 'a.png'; expected a mapping with keys type, class, image, mask",
    "a: {type: object, class: x, image: a.png}\na: {type: object, class: x, image: a.png}": "2 entries are named 'a'",
    "- corgi": "no entries",
    "corgi: [": "cannot be read: .*line 1",
    "": "no entries",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=list(WRONG.values()))
def test_a_wrong_list_names_line_and_key(text: str, message: str, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "subjects.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_subjects(tmp_path)
    assert str(tmp_path / "subjects.yaml") in str(caught.value)


def test_too_few_subjects_of_a_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        bench(tmp_path / "nowhere")
    save(tmp_path / "living" / "dog.png")
    save(tmp_path / "objects" / "vase.png")
    with pytest.raises(InputError, match=r"living\+living needs 2 subjects of type 'living', found 1"):
        bench(tmp_path)
    with pytest.raises(InputError, match=r"needs 1 subjects of type 'object', found 0; .*did you mean 'objects'"):
        bench(tmp_path, types=("living+object",))
    save(tmp_path / "living" / "dog.jpg")
    with pytest.raises(InputError, match="2 pictures are named 'dog'"):
        bench(tmp_path)


def test_a_mask_of_another_size_and_a_broken_picture_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / "object" / f"{name}.png")
    Image.new("L", (8, 7), 255).save(tmp_path / "object" / "a.mask.png")
    dataset = bench(tmp_path, types=("object+object",), pairs=1)
    with pytest.raises(InputError, match=r"a\.mask\.png: is 7x8; expected the size of its picture, 6x8"):
        dataset[0]
    (tmp_path / "object" / "a.mask.png").unlink()
    (tmp_path / "object" / "b.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"b\.png.*not an image"):
        bench(tmp_path, types=("object+object",), pairs=1)[0]


@pytest.mark.skipif(not DREAMBENCH, reason="SUBJECTGEN_DREAMBENCH names no folder with the photos")
def test_the_dreambench_photos_make_a_bench(tmp_path: Path) -> None:
    """Its 30 subjects, 9 of them alive, listed with absolute paths."""
    assert DREAMBENCH is not None
    table = (Path(DREAMBENCH) / "prompts_and_classes.txt").read_text().partition("subject_name,class")[2]
    classes = dict(line.split(",") for line in table.partition("Prompts")[0].split("\n") if "," in line)
    assert len(classes) == 30
    lines = [
        f"{name}: {{type: {'living' if word in ('cat', 'dog') else 'object'}, class: {word}, "
        f"image: {next(iter(sorted((Path(DREAMBENCH) / name).glob('*.jpg'))))}}}"
        for name, word in classes.items()
    ]
    (tmp_path / "subjects.yaml").write_text("\n".join(lines))
    types = ("living+living", "living+object", "object+object", "living+living+living", "object+object+object")
    dataset = bench(tmp_path, types=types)
    assert len(dataset) == 888
    assert set(Counter(case.combination.name for case in dataset.cases).values()) == {210, 216, 120, 126}
    sample = dataset[0]
    assert re.fullmatch(
        r"a (cat|dog) and a (cat|dog) in a room, (cat|dog) on the left, and (cat|dog) on the right", sample.prompt
    )
    assert all(min(reference.image.shape[1:]) > 200 for reference in sample.references)
