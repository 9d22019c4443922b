"""The tiny CLIP: what it is taught, where its text is pooled, and files that the hub's classes read."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

from subjectgen.core import InputError, to_pil
from subjectgen.toybox import architectures
from subjectgen.toybox.captions import SCENE_PHRASES, caption
from subjectgen.toybox.pretraining import clip
from subjectgen.toybox.pretraining.pool import Pool, training_pool
from subjectgen.toybox.world import Draw, random_toy, random_view


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return clip.word_tokenizer(end=clip.END, max_length=architectures.TEXT_LENGTH)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return training_pool(16, seed=3, views_per_toy=1, family=4, masks=True, compiled=False)


@pytest.fixture(scope="module")
def saved(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    clip.save(clip.build(tokenizer), tokenizer, folder)
    return folder


def test_a_batch_has_whole_families_and_cut_outs_without_scene(pool: Pool, tokenizer: PreTrainedTokenizerFast) -> None:
    lessons, kinds = clip.Lessons(pool, tokenizer, seed=0), set()
    known = clip.normalize(pool.batch(torch.arange(len(pool))))
    white = clip.normalize(torch.ones(1, 3, 1, 1))
    assert pool.masks is not None
    for _ in range(4):
        images, text = lessons.batch(9)
        assert len(images) == len(text["input_ids"]) == 8
        for number, (image, ids) in enumerate(zip(images, text["input_ids"], strict=True)):
            words = tokenizer.decode(ids, skip_special_tokens=True)
            distances = [float(((image - one) * mask).abs().sum()) for one, mask in zip(known, pool.masks, strict=True)]
            index = distances.index(0)
            toy, mask = pool.toys[index], pool.masks[index]
            assert index % 4 == number % 4
            assert toy.shape in words
            cut_out = torch.equal(image * ~mask, (white[0] * ~mask))
            assert cut_out or torch.equal(image, known[index])
            if cut_out:
                assert not any(phrase in words for phrase in SCENE_PHRASES.values())
            kinds.add(cut_out)
    assert kinds == {True, False}


def test_a_pool_without_masks_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    pool = training_pool(4, seed=3, compiled=False)
    with pytest.raises(InputError, match="drawn with masks"):
        clip.Lessons(pool, tokenizer, seed=0)


def test_no_caption_is_cut_and_its_end_is_where_the_text_is_pooled(
    tokenizer: PreTrainedTokenizerFast, saved: Path
) -> None:
    model, draw = CLIPModel.from_pretrained(saved).float().eval(), Draw(0)
    longest = "a red and blue striped box with yellow ears facing left in the snow wearing a hat"
    texts = [longest, *(caption(random_toy(draw), random_view(draw)) for _ in range(20))]
    batch = clip.tokens(tokenizer, texts)
    output = model.text_model(**batch)
    for row, (text, ids) in enumerate(zip(texts, batch["input_ids"].tolist(), strict=True)):
        place = len(text.split())
        assert ids[place] == tokenizer.convert_tokens_to_ids(clip.END)
        torch.testing.assert_close(output.pooler_output[row], output.last_hidden_state[row, place])


def test_the_hubs_classes_read_it(tokenizer: PreTrainedTokenizerFast, saved: Path, pool: Pool) -> None:
    processor = CLIPImageProcessor.from_pretrained(saved)
    images = pool.batch(torch.arange(2))
    given = processor([to_pil(image) for image in images], return_tensors="pt").pixel_values
    torch.testing.assert_close(given, clip.normalize(images), atol=1e-5, rtol=1e-5)
    text = "a red box at night"
    assert AutoTokenizer.from_pretrained(saved)(text).input_ids == tokenizer(text).input_ids
    tower = CLIPVisionModel.from_pretrained(saved).float().eval()
    states = tower(given, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 65, 128)] * 9
    whole, alone = CLIPModel.from_pretrained(saved).float().eval(), CLIPVisionModelWithProjection.from_pretrained(saved)
    embeds = alone.float().eval()(given).image_embeds
    torch.testing.assert_close(embeds, whole.get_image_features(given).pooler_output)
    assert embeds.shape == (2, 64)


def test_retrieval_is_at_chance_before_training(tokenizer: PreTrainedTokenizerFast, saved: Path) -> None:
    scores = clip.retrieval(CLIPModel.from_pretrained(saved).float().eval(), tokenizer, seed=1)
    assert set(scores) == {
        f"{kind}{way}_top1" for kind in ("", "cut_out_") for way in ("image_to_caption", "caption_to_image")
    }
    assert max(scores.values()) < 0.1
