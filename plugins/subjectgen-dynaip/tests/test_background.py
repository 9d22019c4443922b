"""The subject of a picture by segmentation models: tiny checkpoints that the tests write themselves."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForUniversalSegmentation,
    DetrConfig,
    DetrForSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
)
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

from subjectgen.core import CheckpointError, ComponentError, InputError
from subjectgen_dynaip.background import BackgroundRemover, BackgroundSettings, main_subject

SCIPY = find_spec("scipy") is not None
needs_scipy = pytest.mark.skipif(not SCIPY, reason="transformers builds this model only with scipy")
LABELS = ("dog", "cat", "sky", "grass")
NAMES = {"id2label": dict(enumerate(LABELS)), "label2id": {name: place for place, name in enumerate(LABELS)}}
SIZE = {"shortest_edge": 64, "longest_edge": 96}
SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def write_detr(folder: Path, **processor: Any) -> None:
    """DETR with masks, six queries on a ResNet."""
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "d_model": 64}
    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = DetrConfig(
        backbone_config={**resnet, "layer_type": "basic", "out_features": stages},
        **{"num_queries": 6, "init_std": 0.3, "init_xavier_std": 5.0, **layers, **heads, **NAMES},
    )
    torch.manual_seed(0)
    DetrForSegmentation(config).save_pretrained(folder)
    DetrImageProcessorPil(size=SIZE, **processor).save_pretrained(folder)


def write_mask2former(folder: Path, **processor: Any) -> None:
    """Mask2Former with six queries on a Swin."""
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_attention_heads": 2}
    layers = {"encoder_feedforward_dim": 16, "encoder_layers": 1, "decoder_layers": 2, "dim_feedforward": 16}
    config = Mask2FormerConfig(backbone_config=SWIN, num_queries=6, init_std=0.3, **sizes, **layers, **NAMES)
    torch.manual_seed(0)
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessorPil(size=SIZE, **processor).save_pretrained(folder)


def write_maskformer(folder: Path, **processor: Any) -> None:
    """MaskFormer with six queries on a Swin."""
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 32}
    config = MaskFormerConfig(
        backbone_config=SWIN,
        decoder_config={"model_type": "detr", "num_queries": 6, **layers, **heads},
        **{"fpn_feature_size": 32, "mask_feature_size": 32, "init_std": 0.3, "init_xavier_std": 5.0, **NAMES},
    )
    torch.manual_seed(0)
    MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    MaskFormerImageProcessorPil(size=SIZE, **processor).save_pretrained(folder)


WRITERS = {"detr": write_detr, "mask2former": write_mask2former, "maskformer": write_maskformer}
each_kind = pytest.mark.parametrize(
    "kind", ["detr", *(pytest.param(kind, marks=needs_scipy) for kind in ("mask2former", "maskformer"))]
)


@pytest.fixture(scope="module")
def detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detr")
    write_detr(folder)
    return folder


@pytest.fixture(scope="module")
def picture() -> Tensor:
    coarse = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, size=(40, 56), mode="bilinear")[0]


def remover(folder: Path, **options: Any) -> BackgroundRemover:
    return BackgroundRemover(BackgroundSettings(**{"checkpoint": str(folder), "threshold": 0.0, **options}))


# ---------------------------------------------------------------------------------------------- which segment


@settings(deadline=None, max_examples=50)
@given(
    scores=st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=1, max_size=5),
    areas=st.data(),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_the_subject_has_the_most_of_score_times_area(
    scores: list[float], areas: st.DataObject, threshold: float
) -> None:
    inside = torch.zeros(len(scores), 2, 3, dtype=torch.bool)
    counts = [areas.draw(st.integers(0, 6)) for _ in scores]
    for mask, count in zip(inside, counts, strict=True):
        mask.view(-1)[:count] = True
    chosen = main_subject(torch.tensor(scores), inside, threshold)
    worth = {n: s * c for n, (s, c) in enumerate(zip(scores, counts, strict=True)) if s > threshold and c}
    if chosen is None:
        assert not worth
    else:
        assert worth[chosen] == max(worth.values())


@each_kind
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_the_mask_is_what_the_model_gives_by_hand(kind: str, padded: bool, picture: Tensor, tmp_path: Path) -> None:
    """From the model's raw output, one query after another; the processor may pad below and to the right."""
    WRITERS[kind](tmp_path / kind, **({"pad_size": {"height": 96, "width": 128}} if padded else {}))
    found = remover(tmp_path / kind)
    mask = found.mask(picture)
    assert mask.shape == (1, 40, 56)
    assert mask.dtype == picture.dtype
    inputs = found.processor(images=(picture * 255).round().byte().numpy(), return_tensors="pt")
    with torch.no_grad():
        outputs = AutoModelForUniversalSegmentation.from_pretrained(tmp_path / kind).eval()(**inputs)
    names = ("logits", "pred_masks") if kind == "detr" else ("class_queries_logits", "masks_queries_logits")
    classes, masks = (outputs[name][0] for name in names)
    height, width = inputs["pixel_values"].shape[-2:]
    inner = (64, 89) if kind == "detr" else (64, 96)  # the shorter side becomes 64; a multiple of 32 for the others
    assert ((height, width) == inner) is not padded
    best, expected = 0.0, torch.zeros(1, 40, 56)
    for query in range(6):
        label_trust = float(classes[query].softmax(dim=0)[:-1].max())
        whole = functional.interpolate(masks[query][None, None], (height, width), mode="bilinear")
        inside = functional.interpolate(whole[..., : inner[0], : inner[1]], (40, 56), mode="bilinear")[0].sigmoid()
        pixels = inside > 0.5
        worth = label_trust * float(inside[pixels].mean()) * int(pixels.sum()) if pixels.any() else 0.0
        if worth > best:
            best, expected = worth, pixels.float()
    assert best > 0
    torch.testing.assert_close(mask, expected)
    assert 0 < mask.mean() < 1


def test_the_picture_decides(detr: Path, picture: Tensor) -> None:
    one = remover(detr)
    assert torch.equal(one.mask(picture), one.mask(picture.clone()))
    assert not torch.equal(one.mask(picture), one.mask(1 - picture))


def test_only_wanted_labels_may_be_the_subject(detr: Path, picture: Tensor) -> None:
    """A label by its name; or things only, which come first among the labels of a panoptic model."""
    trust, labels, _ = remover(detr)._proposals(picture)
    favourite = int(labels[trust.argmax()])
    assert favourite > 0
    others = tuple(name for name in LABELS if name != LABELS[favourite])
    for options in ({"labels": others}, {"things": favourite}):
        with pytest.raises(InputError, match="no subject is found") as caught:
            remover(detr, threshold=float(trust.max()) / 2, **options).mask(picture)
        assert LABELS[favourite] not in str(caught.value)
    for options in ({"labels": (LABELS[favourite],)}, {"things": favourite + 1}):
        assert torch.equal(remover(detr, **options).mask(picture), remover(detr).mask(picture))


def test_nothing_above_the_threshold_says_what_came_nearest(detr: Path, picture: Tensor) -> None:
    with pytest.raises(
        InputError, match=r"the best is '(dog|cat|sky|grass)' with score 0\.\d\d, expected more than 0.99"
    ):
        remover(detr, threshold=0.99).mask(picture)


def test_an_unknown_label_is_answered_with_the_nearest(detr: Path) -> None:
    with pytest.raises(ComponentError, match="has no label 'gras'; did you mean 'grass'"):
        remover(detr, labels=("gras",))
    with pytest.raises(ValidationError, match="threshold"):
        BackgroundSettings(threshold=2)


# ------------------------------------------------------------------------------------------------- the models


def test_it_is_frozen(detr: Path) -> None:
    found = remover(detr)
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert not any(module.training for module in found.train().modules())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same_mask(dtype: str, detr: Path, picture: Tensor) -> None:
    exact, half = remover(detr).mask(picture), remover(detr, dtype=dtype).mask(picture)
    assert half.dtype == picture.dtype
    assert (exact != half).float().mean() < 0.1


def test_bad_checkpoints_are_named(detr: Path, tmp_path: Path) -> None:
    for name in ("incomplete", "another", "no-processor"):
        shutil.copytree(detr, tmp_path / name)
    weights = load_file(detr / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("mask_head")}
    save_file(kept, tmp_path / "incomplete" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "another" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "no-processor" / "preprocessor_config.json").unlink()
    messages = {
        "incomplte": "does not exist; did you mean 'incomplete'",
        "incomplete": "lacks .* weights of the model, the first is 'mask_head",
        "another": "type 'bert', expected 'mask2former' or 'maskformer' or 'detr'",
        "no-processor": "has no files of AutoImageProcessor, found .*; expected preprocessor_config.json",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message):
            remover(tmp_path / name)


@pytest.mark.skipif(SCIPY, reason="scipy is installed")
def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    Mask2FormerConfig(backbone_config=SWIN).save_pretrained(tmp_path)
    save_file({"any": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ComponentError, match=r"needs a library: .*scipy"):
        remover(tmp_path)
