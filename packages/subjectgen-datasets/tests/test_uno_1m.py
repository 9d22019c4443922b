import json

import pytest
import torch

from subjectgen.core import InputError, SampleError, load_reference
from subjectgen.datasets.uno_1m import Uno1M

from .conftest import label, scored


def opened(labels, **options) -> Uno1M:
    return Uno1M(Uno1M.Config(labels=labels, **options))


def test_the_first_picture_is_the_reference_and_the_second_the_target(uno, tmp_path) -> None:
    sample = opened(uno([label(0), label(1)]))[1]
    assert sample.key == "pair-0000001"
    assert sample.prompt == "Thing 1 in the snow"
    assert torch.equal(sample.references[0].image, load_reference(tmp_path / "images/split1/a_1.png").image)
    assert torch.equal(sample.target, load_reference(tmp_path / "images/split1/b_1.png").image)
    files = {"reference": "split1/a_1.png", "target": "split1/b_1.png"}
    assert sample.facts == {"pair": 1, "subject": ["Thing"], "score": 4.0, "files": files}


def test_both_ways_gives_each_pair_backwards_too(uno) -> None:
    dataset = opened(uno([label(0), label(1)]), both_ways=True)
    assert dataset.keys() == ["pair-0000000", "pair-0000000-back", "pair-0000001", "pair-0000001-back"]
    there, back = dataset[2], dataset[3]
    assert back.prompt == "Thing 1 on a table"
    assert torch.equal(back.target, there.references[0].image)
    assert torch.equal(back.references[0].image, there.target)


def test_the_threshold_decides_and_keys_stay(uno) -> None:
    labels = uno([scored(number, score) for number, score in enumerate([4.0, 3.5, 4, 3.99, 0, 3.6])])
    assert opened(labels).keys() == ["pair-0000000", "pair-0000002"]
    dataset = opened(labels, threshold=3.5)
    assert dataset.keys() == [f"pair-000000{number}" for number in (0, 1, 2, 3, 5)]
    assert dataset.left_out.unwanted == 1
    assert not dataset.left_out.total


WRONG = [
    (scored(1, 131184.66666666666), "score_final is absurd"),
    (scored(1, -1), "score_final is absurd"),
    (scored(1, float("nan")), "score_final is not finite"),
    (scored(1, float("inf")), "score_final is not finite"),
    (scored(1, "4.0"), "score_final is no number"),
    (scored(1, True), "score_final is no number"),
    (scored(1, None), "score_final is no number"),
    (label(1, vlm_filter_cot={}), "score_final is missing"),
    (label(1, vlm_filter_cot="4"), "vlm_filter_cot is no mapping"),
    (label(1, caption="a thing"), "caption is no mapping"),
    (label(1, caption={"img_path1": "a"}), "caption.img_path2 is missing"),
    (label(1, caption={"img_path1": "a", "img_path2": " "}), "caption.img_path2 is empty"),
    (label(1, img_path1=3), "img_path1 is no text"),
    (label(1, img_path2="../../secret.png"), "img_path2 leads out of the folder"),
    (label(1, img_path2="/etc/passwd"), "img_path2 leads out of the folder"),
    (label(1, img_path1="split1/../../x.png"), "img_path1 leads out of the folder"),
    (label(1, img_path1="C:\\x.png"), "img_path1 leads out of the folder"),
    (label(1, img_path1="..\\x.png"), "img_path1 leads out of the folder"),
    ([], "label is no mapping"),
]


@pytest.mark.parametrize(("wrong", "reason"), WRONG)
def test_a_label_that_cannot_be_used_is_counted_by_reason(uno, wrong, reason) -> None:
    with pytest.warns(UserWarning, match="1 of 2 labels cannot be used") as caught:
        dataset = opened(uno([label(0), wrong]))
    assert len(dataset) == 1
    assert dataset.left_out.counts == {reason: 1}
    assert f"labels.json: entry 1: {reason}" in str(caught[0].message)


def test_thousands_of_faults_are_counted_and_told_once(uno) -> None:
    labels = uno([label(0)])
    rows = [label(0), *[scored(1, "x")] * 700, *[scored(1, 99)] * 300]
    labels.write_text(json.dumps(rows))
    with pytest.warns(UserWarning, match="1000 of 1001") as caught:
        dataset = opened(labels)
    assert dataset.left_out.counts == {"score_final is no number": 700, "score_final is absurd": 300}
    assert len(caught) == 1
    assert str(caught[0].message).count("\n") == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "none of 0 labels can be used"),
        ([scored(0, 3.0)], "1 are well, but not wanted by its options"),
        ([scored(0, "x")], "none of 1 labels can be used .1 x score_final is no number"),
    ],
)
def test_labels_without_a_sample_are_an_error(uno, rows, message) -> None:
    with pytest.raises(InputError, match=message):
        opened(uno(rows))


def test_missing_files_and_folders_are_named(uno, tmp_path) -> None:
    labels = uno([label(0)])
    with pytest.raises(InputError, match=r"label\.json: no such file; did you mean 'labels\.json'"):
        opened(tmp_path / "label.json")
    with pytest.raises(InputError, match="images: no such folder"):
        opened(labels, images=tmp_path / "nowhere")
    (tmp_path / "images/split1/b_0.png").unlink()
    with pytest.raises(SampleError, match=r"labels\.json: entry 0: target 'split1/b_0\.png': no such file"):
        opened(labels)[0]


def test_labels_of_a_split_find_the_images_above(uno, tmp_path) -> None:
    labels = uno([label(0)])
    (tmp_path / "labels").mkdir()
    labels.rename(tmp_path / "labels" / "split1.json")
    assert opened(tmp_path / "labels" / "split1.json").images == tmp_path / "images"


def test_letters_of_any_alphabet(uno) -> None:
    caption = {"img_path1": "一只猫", "img_path2": "the café ☃"}
    labels = uno([label(0, img_path1="split1/貓.png", img_path2="split1/é b.png", caption=caption)] * 2)
    labels.write_text(json.dumps(json.loads(labels.read_text()), ensure_ascii=False), encoding="utf-8")
    dataset = opened(labels)
    assert dataset[1].prompt == "the café ☃"
    assert dataset[1].facts["files"]["reference"] == "split1/貓.png"


def test_labels_that_change_while_they_are_used_are_a_sample_error(uno) -> None:
    labels = uno([label(0), label(1)])
    dataset = opened(labels)
    labels.write_text("[]")
    with pytest.raises(SampleError, match="was read before, and now cannot be"):
        dataset[1]
