"""Grounding-DINO and SAM on tiny checkpoints in the hub's layout, which the tests write themselves."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    SamConfig,
    SamModel,
    SamProcessor,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from subjectgen.core import CheckpointError, InputError, to_pil
from subjectgen.testing import FinderContract
from subjectgen_dynaip.grounded_sam import GroundedSam, _different, _overlap, _widened, normalized

WORDS = ("a", "red", "cat", "dog", "toy")
PHRASES = ("a cat", "red toy", "toy")
UNSURE = "dog"
"""A phrase that the tiny detector trusts less than the others."""


def write_detector(folder: Path) -> None:
    """Grounding-DINO with 12 queries, a Swin backbone of 8 channels and a BERT that knows five words."""
    vocabulary = [f"[unused{number}]" for number in range(1040)]
    vocabulary[0], vocabulary[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary[1012], vocabulary[1029] = ".", "?"  # where the model looks for them
    vocabulary[1030 : 1030 + len(WORDS)] = WORDS
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)}, do_lower_case=True)
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    backbone = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "window_size": 4}
    text = {"vocab_size": 1040, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GroundingDinoConfig(
        backbone_config={"model_type": "swin", "image_size": 64, "patch_size": 4, "out_indices": [2, 3, 4], **backbone},
        text_config={"model_type": "bert", "intermediate_size": 16, "max_position_embeddings": 32, **text},
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=32,
        max_text_len=16,
        init_std=0.3,
    )
    torch.manual_seed(0)
    model = GroundingDinoForObjectDetection(config)
    with torch.no_grad():
        for head in model.bbox_embed:  # as transformers draws them, all boxes are of one small size
            head.layers[-1].weight.normal_(std=0.3)
            head.layers[-1].bias[2:] = 2.0
    model.save_pretrained(folder)


def write_segmenter(folder: Path) -> None:
    """SAM on pictures of 64 px."""
    size = {"height": 64, "width": 64}
    images = SamImageProcessorPil(size={"longest_edge": 64}, pad_size=size)
    SamProcessor(images).save_pretrained(folder)
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "output_channels": 16}
    vision |= {"global_attn_indexes": [1], "window_size": 4, "num_pos_feats": 8, "initializer_range": 0.2}
    config = SamConfig(
        vision_config={"image_size": 64, "patch_size": 8, **vision},
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    SamModel(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grounding-dino")
    write_detector(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam")
    write_segmenter(folder)
    return folder


@pytest.fixture(scope="module")
def new_finder(detector: Path, segmenter: Path) -> Any:
    def make(**options: Any) -> GroundedSam:
        low = {"box_threshold": 0.0, "text_threshold": 0.0}
        config = {"detector": str(detector), "segmenter": str(segmenter), **low, **options}
        return GroundedSam(GroundedSam.Config(**config))

    return make


@pytest.fixture(scope="module")
def finder(new_finder: Any) -> GroundedSam:
    return new_finder()


@pytest.fixture(scope="module")
def picture() -> Tensor:
    coarse = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(40, 56), mode="bilinear")[0]


class TestGroundedSam(FinderContract):
    nowhere = UNSURE

    @pytest.fixture
    def finder(self, new_finder: Any) -> GroundedSam:
        return new_finder(box_threshold=0.9)

    @pytest.fixture
    def phrases(self) -> tuple[str, ...]:
        return PHRASES


# ------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize("text_threshold", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("phrase", [*PHRASES, UNSURE])
def test_proposals_are_those_of_transformers(
    phrase: str, text_threshold: float, new_finder: Any, detector: Path, picture: Tensor
) -> None:
    """Scores, boxes and which box shows a word, against transformers' own reading of the model's output."""
    finder = new_finder(text_threshold=text_threshold)
    scores, named, boxes = finder.propose(to_pil(picture), phrase)
    processor = AutoProcessor.from_pretrained(detector)
    inputs = processor(images=to_pil(picture), text=f"{phrase}.", return_tensors="pt")
    with torch.no_grad():
        outputs = AutoModelForZeroShotObjectDetection.from_pretrained(detector)(**inputs)
    expected = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0.0, text_threshold=text_threshold, target_sizes=[(40, 56)]
    )[0]
    torch.testing.assert_close(scores, expected["scores"])
    edge = torch.tensor([56.0, 40.0, 56.0, 40.0])
    torch.testing.assert_close(boxes, torch.minimum(expected["boxes"].clamp(min=0), edge))
    assert named.tolist() == [any(word in label for word in phrase.split()) for label in expected["text_labels"]]


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_a_phrase_is_in_lower_case_with_one_full_stop_at_its_end(phrase: str) -> None:
    if not phrase.replace(".", " ").split():
        with pytest.raises(InputError, match="expected some words"):
            normalized(phrase)
        return
    text = normalized(phrase)
    assert text.endswith(".")
    assert text.count(".") == 1
    assert text == text.lower()
    assert normalized(text) == text


def test_spelling_does_not_matter(finder: GroundedSam, picture: Tensor) -> None:
    masks = finder.find(picture, ["a cat", "A  Cat.", " a CAT "][:1])
    for phrase in ("A  Cat.", " a CAT "):
        assert torch.equal(finder.find(picture, [phrase]), masks)


def test_thresholds_decide_and_the_message_says_the_best_score(new_finder: Any, picture: Tensor) -> None:
    best = float(new_finder().propose(to_pil(picture), UNSURE)[0].max())
    assert new_finder(box_threshold=best - 0.01).find(picture, [UNSURE]).any()
    for options in ({"box_threshold": best + 0.01}, {"text_threshold": 1.0}):
        message = rf"' {UNSURE.upper()}' is not found .* scores {best:.2f}, expected more than"
        with pytest.raises(InputError, match=message):
            new_finder(**options).find(picture, [f" {UNSURE.upper()}"])


@pytest.mark.parametrize("option", ["box_threshold", "text_threshold", "margin"])
def test_shares_are_shares(option: str) -> None:
    with pytest.raises(ValidationError, match=option):
        GroundedSam.Config(**{option: 1.5})


def test_a_phrase_asked_for_twice_is_two_things_from_left_to_right(finder: GroundedSam, picture: Tensor) -> None:
    two = list(finder._boxes_of(to_pil(picture), PHRASES[0], 2))
    assert _overlap(*two) <= 0.5
    assert two[0][[0, 2]].sum() <= two[1][[0, 2]].sum()
    scores, _, boxes = finder.propose(to_pil(picture), PHRASES[0])
    assert any(torch.equal(box, boxes[scores.argmax()]) for box in two)
    masks = finder.find(picture, [PHRASES[0], PHRASES[1], PHRASES[0]])
    assert not torch.equal(masks[0], masks[2])
    assert torch.equal(masks[1], finder.find(picture, [PHRASES[1]])[0])


def test_too_few_things_of_one_name(finder: GroundedSam, picture: Tensor) -> None:
    with pytest.raises(InputError, match=r"'a cat' is asked for 40 times, but found at [0-9]+ different places"):
        finder.find(picture, ["a cat"] * 40)


def test_a_phrase_too_long_for_the_detector(finder: GroundedSam, picture: Tensor) -> None:
    with pytest.raises(InputError, match="has 23 tokens; expected at most 16"):
        finder.find(picture, ["cat " * 20])


def test_overlap_of_boxes() -> None:
    box = torch.tensor([0.0, 0.0, 2.0, 2.0])
    assert _overlap(box, box) == 1
    assert _overlap(box, torch.tensor([1.0, 0.0, 3.0, 2.0])) == pytest.approx(2 / 6)
    assert _overlap(box, torch.tensor([2.0, 0.0, 3.0, 2.0])) == 0
    assert _overlap(box[[0, 0, 0, 0]], box[[0, 0, 0, 0]]) == 0
    near, far = torch.tensor([0.1, 0.0, 2.0, 2.0]), torch.tensor([5.0, 5.0, 6.0, 6.0])
    chosen = _different(torch.stack([box, near, far]), 2)
    assert torch.equal(torch.stack(chosen), torch.stack([box, far]))


# ------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("choice", ["best", "largest"])
def test_masks_are_what_both_models_give_by_hand(
    choice: str, new_finder: Any, segmenter: Path, picture: Tensor
) -> None:
    """Best box of the detector, then SAM in transformers' own steps, one box at a time."""
    finder = new_finder(mask=choice)
    found = finder.find(picture, PHRASES)
    processor, model = SamProcessor.from_pretrained(segmenter), SamModel.from_pretrained(segmenter).eval()
    for phrase, mask in zip(PHRASES, found, strict=True):
        scores, _, boxes = finder.propose(to_pil(picture), phrase)
        box = boxes[scores.argmax()].tolist()
        inputs = processor(to_pil(picture), input_boxes=[[box]], return_tensors="pt")
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        with torch.no_grad():
            outputs = model(**{key: value.float() for key, value in inputs.items()})
        three = processor.post_process_masks(outputs.pred_masks, *sizes)[0][0]
        worth = outputs.iou_scores[0, 0] if choice == "best" else three.flatten(1).sum(dim=1)
        assert torch.equal(mask, three[worth.argmax()].float())


def test_the_options_choose_different_masks(new_finder: Any, picture: Tensor) -> None:
    """Otherwise the test above would not tell them apart."""
    best, largest = (new_finder(mask=choice).find(picture, PHRASES) for choice in ("best", "largest"))
    assert (largest.flatten(1).sum(dim=1) >= best.flatten(1).sum(dim=1)).all()
    assert not torch.equal(best, largest)


@settings(max_examples=20)
@given(row=st.integers(0, 8), column=st.integers(0, 10), reach=st.integers(0, 4))
def test_a_margin_widens_by_a_share_of_the_longer_side(row: int, column: int, reach: int) -> None:
    """One pixel becomes a square around it, cut at the picture's edge."""
    mask = torch.zeros(1, 9, 11, dtype=torch.bool)
    mask[0, row, column] = True
    wide = _widened(mask, torch.tensor([[0.0, 0.0, 10.0, 4.0]]), reach / 10)
    expected = torch.zeros(1, 9, 11)
    expected[0, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = 1
    assert torch.equal(wide, expected)


def test_a_finder_with_a_margin_finds_more(new_finder: Any, picture: Tensor) -> None:
    narrow, wide = (new_finder(margin=margin).find(picture, PHRASES) for margin in (0.0, 0.5))
    assert (wide >= narrow).all()
    assert wide.sum() > narrow.sum()


def test_what_the_segmenter_does_not_see_is_an_error(
    new_finder: Any, segmenter: Path, picture: Tensor, tmp_path: Path
) -> None:
    shutil.copytree(segmenter, tmp_path / "blind")
    weights = load_file(tmp_path / "blind" / "model.safetensors")
    for name in [name for name in weights if "output_hypernetworks_mlps" in name]:
        weights[name] = torch.zeros_like(weights[name])  # every pixel's logit is 0, which is not inside
    save_file(weights, tmp_path / "blind" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="'red toy' has a box, but the segmenter sees nothing"):
        new_finder(segmenter=str(tmp_path / "blind")).find(picture, ["red toy"])


# ------------------------------------------------------------------------------------------------- the models


def test_it_is_frozen(finder: GroundedSam) -> None:
    assert not any(parameter.requires_grad for parameter in finder.parameters())
    assert not any(module.training for module in finder.train().modules())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same_scores(
    dtype: str, new_finder: Any, finder: GroundedSam, picture: Tensor
) -> None:
    half = new_finder(dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {getattr(torch, dtype)}
    exact, near = (float(one.propose(to_pil(picture), "dog.")[0].max()) for one in (finder, half))
    assert near == pytest.approx(exact, abs=0.05)
    masks = half.find(picture, PHRASES)
    assert masks.dtype == picture.dtype
    assert set(Counter(masks.flatten().tolist())) == {0.0, 1.0}


@pytest.mark.parametrize("part", ["detector", "segmenter"])
def test_bad_checkpoints_are_named(part: str, new_finder: Any, request: Any, tmp_path: Path) -> None:
    good: Path = request.getfixturevalue(part)
    BertModel(
        BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    ).save_pretrained(tmp_path / "bert")
    for name in ("incomplete", "truncated", "no-processor", "pickled"):
        shutil.copytree(good, tmp_path / name)
    weights = load_file(good / "model.safetensors")
    dropped = sorted(weights)[0]
    save_file(
        {name: weight for name, weight in weights.items() if name != dropped},
        tmp_path / "incomplete" / "model.safetensors",
        metadata={"format": "pt"},
    )
    truncated = tmp_path / "truncated" / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:5000])
    (tmp_path / "no-processor" / "processor_config.json").unlink()
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "empty").mkdir()
    messages = {
        "bart": "does not exist; did you mean 'bert'",
        "bert": "holds a model of type 'bert', expected '(grounding-dino|sam)'",
        "empty": "has no config.json",
        "incomplete": rf"lacks \d+ weights of the model, the first is '{dropped}'",
        "truncated": "model.safetensors is truncated or damaged",
        "no-processor": "has no files of .*Processor, found .*; expected processor_config.json",
        "pickled": "may be a pickle",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message) as caught:
            new_finder(**{part: str(tmp_path / name)})
        assert str(tmp_path / name) in str(caught.value)


def test_a_local_checkpoint_has_no_revision(new_finder: Any) -> None:
    for part in ("detector", "segmenter"):
        with pytest.raises(CheckpointError, match="is local and has no revision"):
            new_finder(**{f"{part}_revision": "v1"})
