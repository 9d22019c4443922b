import csv
import json

import pytest
import torch

from subjectgen.core import InputError, SampleError, load_mask, load_reference
from subjectgen.datasets.image_pairs import ImagePairs


def opened(folder, **options) -> ImagePairs:
    return ImagePairs(ImagePairs.Config(folder=folder, **options))


@pytest.fixture
def rows(picture, mask) -> list[dict]:
    return [
        {"prompt": "a thing,\nat night", "target": picture("t0.png"), "reference": picture("r0.png", colour="blue")},
        {"prompt": "two", "target": "t0.png", "reference": f"r0.png|{picture('r1.png')}", "mask": f"{mask('m.png')}|"},
        {"prompt": "three", "target": "t0.png", "reference": "r1.png", "name": "Ünï", "key": "third"},
    ]


def test_a_table_a_list_and_lines_say_the_same(rows, tmp_path) -> None:
    columns = ["prompt", "target", "reference", "mask", "name", "key"]
    with (tmp_path / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "other.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "other.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    table = opened(tmp_path)
    for other in (opened(tmp_path, index=tmp_path / f"other.{ending}") for ending in ("json", "jsonl")):
        for mine, theirs in zip(table, other, strict=True):
            assert mine.prompt == theirs.prompt
            assert mine.facts == theirs.facts
            assert [one.name for one in mine.references] == [one.name for one in theirs.references]
            masked = [one.subject_mask is not None for one in mine.references]
            assert masked == [one.subject_mask is not None for one in theirs.references]
    assert table.keys() == ["line-000002", "line-000004", "third"]
    assert opened(tmp_path, index=tmp_path / "other.json").keys() == ["entry-0000000", "entry-0000001", "third"]
    sample = table[1]
    assert torch.equal(sample.references[0].subject_mask, load_mask(tmp_path / "m.png"))
    assert torch.equal(sample.references[1].image, load_reference(tmp_path / "r1.png").image)
    assert table[2].facts["subject"] == "Ünï"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"promt": "x"}, "unknown key"),
        ({"target": "../t0.png"}, "target leads out of the folder"),
        ({"reference": "/r0.png"}, "reference leads out of the folder"),
        ({"reference": []}, "reference is missing"),
        ({"reference": 3}, "reference is neither text nor a list"),
        ({"masks": ["m.png", None]}, "another number of masks than of references"),
        ({"mask": "../m.png"}, "mask leads out of the folder"),
        ({"names": [3]}, "name is no text"),
        ({"references": ["r0.png"]}, "reference and references are both there"),
        ({"key": "a/b"}, "key is no name"),
        ({"facts": 3}, "facts is no mapping"),
    ],
)
def test_a_line_that_cannot_be_used_is_counted(rows, tmp_path, change, reason) -> None:
    lines = [json.dumps(rows[0]), json.dumps({**rows[0], **change}), "{nonsense", json.dumps(rows[2])]
    (tmp_path / "index.jsonl").write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="2 of 4 samples cannot be used"):
        dataset = opened(tmp_path)
    assert dataset.left_out.counts == {reason: 1, "not JSON": 1}
    assert f"index.jsonl:2: {reason}" in dataset.left_out.examples[reason][0]
    assert dataset.keys() == ["line-000001", "third"]


def test_the_same_key_twice_is_an_error(rows, tmp_path) -> None:
    (tmp_path / "index.json").write_text(json.dumps([rows[2], rows[0], {**rows[2], "key": "THIRD"}]))
    with pytest.raises(InputError, match=r"entry 2: key 'THIRD' is that of .*entry 0 too"):
        opened(tmp_path)


def test_a_row_of_another_length_and_bytes_that_are_no_text(tmp_path, picture) -> None:
    picture("t.png")
    text = b"prompt,target,reference\na,t.png,t.png\nb,t.png\n\xff,t.png,t.png\nc,t.png,t.png\n"
    (tmp_path / "index.csv").write_bytes(text)
    with pytest.warns(UserWarning, match="2 of 4"):
        dataset = opened(tmp_path)
    assert dataset.left_out.counts == {"another number of columns": 1, "not UTF-8": 1}
    assert [sample.prompt for sample in dataset] == ["a", "c"]
    assert dataset.keys() == ["line-000002", "line-000005"]


def test_names_alone(tmp_path, picture, mask) -> None:
    for name in ("cat.png", "cat.ref.jpg", "dog.jpg", "dog.ref0.png", "dog.ref1.png", "lonely.png", "half.ref.png"):
        picture(name)
    mask("dog.mask1.png")
    for name in ("cat", "dog", "half"):
        (tmp_path / f"{name}.txt").write_text(f"the {name}\n")
    with pytest.warns(UserWarning, match="2 of 4 samples cannot be used"):
        dataset = opened(tmp_path)
    assert dataset.keys() == ["cat", "dog"]
    assert dataset.left_out.counts == {"no prompt": 1, "no target": 1}
    assert [sample.prompt for sample in dataset] == ["the cat", "the dog"]
    assert [one.subject_mask is None for one in dataset[1].references] == [True, False]


def test_a_mask_of_another_size_is_a_sample_error(tmp_path, picture, mask) -> None:
    row = {"prompt": "x", "target": picture("t.png"), "reference": "t.png", "mask": mask("m.png", (3, 4))}
    (tmp_path / "index.json").write_text(json.dumps([row]))
    with pytest.raises(SampleError, match=r"entry 0: mask 'm\.png' is 3x4; expected the size of its reference, 8x12"):
        opened(tmp_path)[0]


def test_folders_without_an_index_or_names_say_what_is_expected(tmp_path) -> None:
    with pytest.raises(InputError, match="no index"):
        opened(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        opened(tmp_path / "nowhere")
    (tmp_path / "index.json").write_text("[]")
    (tmp_path / "index.csv").write_text("prompt\n")
    with pytest.raises(InputError, match=r"index\.json and index\.csv; choose one"):
        opened(tmp_path)
    with pytest.raises(InputError, match="ends in"):
        opened(tmp_path, index=tmp_path / "index.xml")
