"""The closed grammar: every sentence is made of known words and says what the picture shows."""

from importlib.resources import files

import pytest
from hypothesis import given, strategies as st

from subjectgen.toybox.captions import (
    SCENE_PHRASES,
    caption,
    class_prompt,
    questions,
    random_caption,
    random_subject_prompt,
    subject_prompt,
)
from subjectgen.toybox.tokenizer import INTERNVL_TEMPLATE, mllm_tokenizer
from subjectgen.toybox.world import Draw, Toy, View, random_toy, random_view

TOKENIZER = mllm_tokenizer("internvl3")
seeds = st.integers(0, 2**31 - 1)


@given(seeds)
def test_no_sentence_has_an_unknown_word(seed: int) -> None:
    draw = Draw(seed)
    toy, view = random_toy(draw, held_out=None), random_view(draw)
    texts = [caption(toy, view), random_caption(draw, toy, view), random_subject_prompt(draw, view)]
    texts += [text for pair in questions(toy, view) for text in pair]
    texts += [class_prompt([toy, toy], view), class_prompt([toy], view)]
    for text in texts:
        assert TOKENIZER.unk_token_id not in TOKENIZER(text).input_ids
        assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


@given(seeds)
def test_a_prompt_names_its_scene_and_never_the_toy(seed: int) -> None:
    draw = Draw(seed)
    toy, view = random_toy(draw), random_view(draw)
    prompt = subject_prompt(view)
    assert [scene for scene, phrase in SCENE_PHRASES.items() if phrase in prompt] == [view.scene]
    assert not any(phrase in subject_prompt(view, scene=False) for phrase in SCENE_PHRASES.values())
    assert not set(prompt.split()) & {toy.shape, toy.colour, toy.pattern} - {"plain"}


def test_a_full_caption() -> None:
    toy = Toy(shape="box", colour="red", second_colour="blue", pattern="striped", part="ears", part_colour="yellow")
    view = View(scene="snow", azimuth=-60.0, accessory="hat")
    expected = "a red and blue striped box with yellow ears facing left in the snow wearing a hat"
    assert caption(toy, view) == expected


def test_scene_phrases_are_not_parts_of_each_other() -> None:
    for phrase in SCENE_PHRASES.values():
        assert [other for other in SCENE_PHRASES.values() if other in phrase] == [phrase]


def test_the_tokenizer_survives_its_files(tmp_path) -> None:
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<img><IMG_CONTEXT></img> a red box"
    assert loaded(text).input_ids == TOKENIZER(text).input_ids
    assert loaded.chat_template == INTERNVL_TEMPLATE


def test_transformers_own_processor_takes_the_shipped_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer, InternVLProcessor, ProcessorMixin

    # its base class looks for video processors, which need torchvision
    monkeypatch.setattr(ProcessorMixin, "__init__", lambda *_, **__: None)
    shipped = AutoTokenizer.from_pretrained(files("subjectgen.toybox") / "weights" / "internvl3")
    ids = shipped.get_vocab()
    processor = InternVLProcessor(None, shipped)
    assert processor.image_token_ids == [ids["<IMG_CONTEXT>"], ids["<img>"], ids["</img>"]]
    assert (processor.start_image_token, processor.image_token) == ("<img>", "<IMG_CONTEXT>")
