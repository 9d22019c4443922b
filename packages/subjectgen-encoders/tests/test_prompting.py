"""Which tokens are the prompt's: found by the offsets of a byte-level BPE tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings, strategies as st
from transformers import AutoTokenizer, Qwen2Tokenizer

from subjectgen.core import CheckpointError, InputError, Modality, Sample
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.prompting import Prompting

CONTROL = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]


@pytest.fixture(scope="session")
def bpe(internvl3_checkpoint: Path) -> Qwen2Tokenizer:
    """Byte-level BPE with Qwen2's normaliser and word pattern, which knows a few words."""
    return AutoTokenizer.from_pretrained(internvl3_checkpoint)


def prompting(tokenizer: Any, **options: Any) -> Prompting:
    start, end, context = tokenizer.convert_tokens_to_ids(CONTROL[2:])
    return Prompting(tokenizer, image_token_id=context, image_markers=(start, end), **options)


def kept_text(tokenizer: Any, row: Any) -> str:
    ids = [i for i, keep, m in zip(row.ids, row.keep, row.modality, strict=True) if keep and m == Modality.TEXT]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_the_kept_text_tokens_spell_the_prompt(bpe: Qwen2Tokenizer) -> None:
    writer = prompting(bpe)

    @settings(deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=20))
    @example("a red <box>")
    def check(prompt: str) -> None:
        assume(not any(token in prompt for token in (*CONTROL, *bpe.all_special_tokens)))  # refused, see below
        # A prompt that begins with a line break shares a token with the template's own; it is the prompt's then.
        assert kept_text(bpe, writer.row(prompt, [3])).lstrip("\n") == bpe.backend_tokenizer.normalizer.normalize_str(
            prompt
        ).lstrip("\n")

    check()


def test_sequence_is_that_of_the_expanded_text(bpe: Qwen2Tokenizer) -> None:
    row = prompting(bpe).row("the toy's red beach", [2, 3])
    images = "".join(f"<img>{'<IMG_CONTEXT>' * n}</img>\n" for n in (2, 3))
    text = f"<|im_start|>user\n{images}the toy's red beach<|im_end|>\n<|im_start|>assistant\n"
    assert row.ids == bpe(text, add_special_tokens=False).input_ids


def test_image_tokens_are_kept_with_their_reference(bpe: Qwen2Tokenizer) -> None:
    row = prompting(bpe).row("", [2, 3])
    kept = [(m, r) for m, r, keep in zip(row.modality, row.reference, row.keep, strict=True) if keep]
    assert kept == [(Modality.IMAGE, 0)] * 2 + [(Modality.IMAGE, 1)] * 3


def test_an_empty_prompt_keeps_no_text(bpe: Qwen2Tokenizer) -> None:
    for template in ("chat", "plain"):
        assert not any(prompting(bpe, template=template).row("", []).keep)


def test_pictures_are_numbered_only_when_there_are_several(bpe: Qwen2Tokenizer) -> None:
    for template in ("chat", "plain"):
        writer = prompting(bpe, template=template, number_references=True)
        assert "Picture" not in bpe.decode(writer.row("red", [1]).ids)
        several = bpe.decode(writer.row("red", [1, 1]).ids)
        assert several.index("Picture 1: <img>") < several.index("Picture 2: <img>") < several.index("red")
        assert kept_text(bpe, writer.row("red", [1, 1])) == "red"


def test_a_system_instruction_is_written_and_dropped(bpe: Qwen2Tokenizer) -> None:
    for template in ("chat", "plain"):
        row = prompting(bpe, template=template, system="describe the toy").row("red", [1])
        assert "describe the toy" in bpe.decode(row.ids)
        assert kept_text(bpe, row) == "red"


def test_template_tokens_can_be_kept(bpe: Qwen2Tokenizer) -> None:
    row = prompting(bpe, keep_template_tokens=True).row("red", [1])
    assert all(row.keep)


@pytest.mark.parametrize("token", CONTROL)
def test_control_tokens_in_a_prompt_are_refused(bpe: Qwen2Tokenizer, token: str) -> None:
    with pytest.raises(InputError, match=token.replace("|", r"\|")):
        prompting(bpe).row(f"red {token} toy", [1])


def test_letters_that_a_narrow_locale_damaged_are_read(bpe: Qwen2Tokenizer) -> None:
    row = prompting(bpe).row("a r\udcc3\udca9d toy", [1])
    assert row.ids == prompting(bpe).row("a r\u00e9d toy", [1]).ids
    with pytest.raises(InputError, match=r"^prompt: .* is no valid Unicode"):
        prompting(bpe).row("a \ud83e toy", [1])


def test_templates_that_cannot_work_are_refused(bpe: Qwen2Tokenizer) -> None:
    for chat_template, complaint in {
        "{% for m in messages %}{{ m['role'] }}{% endfor %}": "leaves the prompt out",
        "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}": "0 image tokens",
    }.items():
        with pytest.raises(CheckpointError, match=complaint):
            prompting(bpe, chat_template=chat_template)


def test_padding_side_of_the_tokenizer_does_not_matter(internvl3_checkpoint: Path, tmp_path: Path, sample: Any) -> None:
    batch = [sample("a red toy on the beach", (32, 32)), sample("toy")]
    states = []
    for side in ("left", "right"):
        folder = shutil.copytree(internvl3_checkpoint, tmp_path / side)
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": side}))
        encoder = InternVL3(InternVL3.Config(checkpoint=str(folder)))
        assert encoder.prompting.tokenizer.padding_side == side
        states.append(encoder.encode(batch).hidden_states)
    for left, right in zip(*states, strict=True):
        assert left.equal(right)


def test_the_processors_template_is_read_where_the_tokenizer_has_none(
    internvl3_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(internvl3_checkpoint, tmp_path / "legacy")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    config = InternVL3.Config(checkpoint=str(folder))
    with pytest.raises(CheckpointError, match="no chat template; set template: plain"):
        InternVL3(config)
    InternVL3(config.model_copy(update={"template": "plain"})).encode([Sample(prompt="toy")])
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    features = InternVL3(config).encode([Sample(prompt="toy")])
    expected = InternVL3(InternVL3.Config(checkpoint=str(internvl3_checkpoint))).encode([Sample(prompt="toy")])
    assert features.hidden_states[-1].equal(expected.hidden_states[-1])
