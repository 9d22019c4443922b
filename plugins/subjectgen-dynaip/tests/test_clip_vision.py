"""CLIP's vision tower: transformers' own hidden states, loaded as a user loads them, of the subject on white."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPVisionModel

from subjectgen.core import CheckpointError, InputError, Modality, Reference, Sample, to_pil
from subjectgen.testing import EncoderContract
from subjectgen_dynaip.clip_vision import ClipVisionEncoder
from subjectgen_dynaip.cut_out import cut_out

SIZE, PATCH, WIDTH, BLOCKS = 32, 8, 24, 3
TOKENS = 1 + (SIZE // PATCH) ** 2
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP in the hub's layout: sharded weights with their index, text tower, image processor."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    model.save_pretrained(folder, max_shard_size="40KB")
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE, **statistics).save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> ClipVisionEncoder:
    return ClipVisionEncoder(ClipVisionEncoder.Config(checkpoint=str(checkpoint)))


def picture(seed: int = 0, size: tuple[int, int] = (SIZE, SIZE)) -> torch.Tensor:
    """Random pixels of whole bytes, as a file has them."""
    values = torch.randint(256, (3, *size), generator=torch.Generator().manual_seed(seed))
    return values / 255


def references(*seeds: int) -> tuple[Reference, ...]:
    return tuple(Reference(image=picture(seed)) for seed in seeds)


class TestContract(EncoderContract):
    @pytest.fixture
    def encoder(self, checkpoint: Path) -> ClipVisionEncoder:
        return ClipVisionEncoder(ClipVisionEncoder.Config(checkpoint=str(checkpoint)))


# ----------------------------------------------------------------------------------------------- hidden states


def test_hidden_states_are_transformers_own(encoder, checkpoint):
    """Every layer, from the picture's file to the features, with the checkpoint's own processor."""
    images = [picture(1), picture(2)]
    features = encoder.encode([Sample(references=(Reference(image=image),)) for image in images])
    pixels = CLIPImageProcessor.from_pretrained(checkpoint)([to_pil(image) for image in images], return_tensors="pt")
    tower = CLIPVisionModel.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        expected = tower(**pixels, output_hidden_states=True).hidden_states
    assert features.depth == encoder.depth == len(expected) == BLOCKS + 1
    for state, theirs in zip(features.hidden_states, expected, strict=True):
        torch.testing.assert_close(state, theirs, rtol=1e-5, atol=1e-5)


def test_what_each_token_is(encoder):
    features = encoder.encode([Sample(references=references(1, 2)), Sample(references=references(3))])
    assert features.modality.shape == (2, 2 * TOKENS)
    assert features.reference[0].tolist() == [0] * TOKENS + [1] * TOKENS
    assert features.reference[1].tolist() == [0] * TOKENS + [-1] * TOKENS
    assert (features.modality[1, TOKENS:] == Modality.PADDING).all()
    assert features.class_token.nonzero().tolist() == [[0, 0], [0, TOKENS], [1, 0]]
    assert all((state[1, TOKENS:] == 0).all() for state in features.hidden_states)


def test_a_picture_that_many_prompts_share_is_encoded_once(encoder, monkeypatch):
    sizes = []
    forward = encoder.tower.forward
    monkeypatch.setattr(
        encoder.tower, "forward", lambda pixels, **kw: sizes.append(len(pixels)) or forward(pixels, **kw)
    )
    shared = references(1, 2)
    features = encoder.encode([Sample(prompt=str(n), references=shared[: 1 + n % 2]) for n in range(6)])
    assert sizes == [2]
    assert torch.equal(features.hidden_states[2][0, :TOKENS], features.hidden_states[2][5, :TOKENS])


def test_the_default_tower_is_the_papers():
    """ViT-L/14-336: 25 hidden states of width 1024, 577 tokens with the class token."""
    with torch.device("meta"):
        encoder = ClipVisionEncoder(ClipVisionEncoder.Config(architecture={}))
    assert (encoder.width, encoder.depth, encoder.tokens) == (1024, 25, 577)


def test_precision_is_kept(checkpoint):
    encoder = ClipVisionEncoder(ClipVisionEncoder.Config(checkpoint=str(checkpoint), dtype="bfloat16"))
    (state, *_) = encoder.encode([Sample(references=references(1))]).hidden_states
    assert state.dtype is torch.bfloat16


# ------------------------------------------------------------------------------------------------------ cut out


def test_surroundings_do_not_matter_when_the_subject_is_cut_out(encoder):
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 8:24, 4:20] = 1
    one, other = (Reference(image=picture(1) * mask + picture(seed) * (1 - mask), subject_mask=mask) for seed in (2, 3))
    first, second = (encoder.encode([Sample(references=(reference,))]).hidden_states[-1] for reference in (one, other))
    assert torch.equal(first, second)
    bare = encoder.encode([Sample(references=(replace(one, subject_mask=None),))]).hidden_states[-1]
    assert not torch.allclose(first, bare)


def test_surroundings_can_be_kept(checkpoint):
    encoder = ClipVisionEncoder(ClipVisionEncoder.Config(checkpoint=str(checkpoint), surroundings="keep"))
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 8:24] = 1
    reference = Reference(image=picture(1), subject_mask=mask)
    masked, bare = (
        encoder.encode([Sample(references=(one,))]).hidden_states[-1]
        for one in (reference, replace(reference, subject_mask=None))
    )
    assert torch.equal(masked, bare)


def test_outside_is_white_inside_is_untouched():
    image, mask = picture(4), torch.zeros(1, SIZE, SIZE)
    mask[:, 3:9, 5:30] = 1
    result = cut_out(image, mask, size=SIZE)
    inside = mask[0].bool()
    assert torch.equal(result[:, inside], image[:, inside])
    assert (result[:, ~inside] == 1).all()


def test_margin_crops_to_the_subject():
    """A subject of 8 x 4 pixels with a margin of a half of 8 becomes 16 x 12, padded to a square."""
    image, mask = torch.zeros(3, 40, 40), torch.zeros(1, 40, 40)
    mask[:, 10:18, 20:24] = 1
    result = cut_out(image, mask, size=16, margin=0.5)
    black = (result[0] < 0.5).nonzero()
    assert black.min(dim=0).values.tolist() == [4, 6]
    assert black.max(dim=0).values.tolist() == [11, 9]


def test_margin_past_the_border_is_white():
    image, mask = torch.zeros(3, 8, 8), torch.ones(1, 8, 8)
    result = cut_out(image, mask, size=16, margin=0.5)
    assert (result[:, 4:12, 4:12] == 0).all()
    assert result.sum() == 3 * (16 * 16 - 64)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 4, 5), "is 4x5; expected the size of its reference, 32x32"),
        (torch.zeros(1, SIZE, SIZE), "is empty"),
        (torch.full((1, SIZE, SIZE), 2.0), r"outside \[0, 1\]"),
        (torch.full((1, SIZE, SIZE), float("nan")), r"outside \[0, 1\]"),
    ],
)
def test_bad_subject_masks(encoder, mask, message):
    reference = Reference(image=picture())
    object.__setattr__(reference, "subject_mask", mask)  # the constructor's shapes are checked in tests only
    with pytest.raises(InputError, match=message):
        encoder.encode([Sample(references=(reference,))])


# -------------------------------------------------------------------------------------------------- checkpoints


def test_a_vision_tower_alone_loads_too(tmp_path, checkpoint, encoder):
    CLIPVisionModel.from_pretrained(checkpoint).save_pretrained(tmp_path)
    alone = ClipVisionEncoder(ClipVisionEncoder.Config(checkpoint=str(tmp_path)))
    for name, value in encoder.tower.state_dict().items():
        assert torch.equal(alone.tower.state_dict()[name], value)


def test_statistics_are_the_checkpoints(encoder):
    assert encoder.statistics.mean == (0.5, 0.4, 0.3)
    assert encoder.statistics.std == (0.2, 0.3, 0.4)


def test_a_missing_layer_is_named(encoder):
    with pytest.raises(InputError, match=r"layer 9 is asked for; the tower has hidden states 0-3"):
        encoder.encode([Sample(references=references(1))], layers=[1, 9])


def test_no_such_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        ClipVisionEncoder(ClipVisionEncoder.Config(checkpoint=str(tmp_path / "nowhere")))


def test_another_architecture(tmp_path):
    small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertModel(small).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"'bert', expected 'clip'"):
        ClipVisionEncoder(ClipVisionEncoder.Config(checkpoint=str(tmp_path)))


def test_weights_that_are_missing(tmp_path, checkpoint):
    from safetensors.torch import load_file, save_file

    CLIPVisionModel.from_pretrained(checkpoint).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in state.items() if "layers.1" not in k}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 16 weights of the model, the first is .*layers\.1"):
        ClipVisionEncoder(ClipVisionEncoder.Config(checkpoint=str(tmp_path)))


def test_a_shard_that_is_missing(tmp_path, checkpoint):
    import shutil

    shutil.copytree(checkpoint, tmp_path / "clip")
    names = set(json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"].values())
    (tmp_path / "clip" / sorted(names)[-1]).unlink()
    with pytest.raises(CheckpointError, match="clip"):
        ClipVisionEncoder(ClipVisionEncoder.Config(checkpoint=str(tmp_path / "clip")))


@pytest.mark.parametrize("given", [{}, {"checkpoint": "x", "architecture": {}}])
def test_exactly_one_source(given):
    with pytest.raises(ValueError, match="expected exactly one"):
        ClipVisionEncoder.Config(**given)


def test_a_transparent_picture_is_laid_on_white(encoder, tmp_path):
    from subjectgen.core import load_reference

    image = Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 0))
    image.save(tmp_path / "clear.png")
    white = Reference(image=torch.ones(3, SIZE, SIZE))
    clear = load_reference(tmp_path / "clear.png")
    first, second = (encoder.encode([Sample(references=(one,))]).hidden_states[-1] for one in (clear, white))
    assert torch.equal(first, second)
