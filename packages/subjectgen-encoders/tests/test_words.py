"""Words that a tokenizer does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from subjectgen.core import KnowsWords
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.qwen2_5_vl import Qwen25VL
from subjectgen.encoders.words import unknown_words


@pytest.fixture
def tokenizer() -> Any:
    """One token per known word, as the toybox has it."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", "a", "red", "toy", "well", "lit", ".", ","])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("a red toy.", []),
        ("a purple toy, a PURPLE one", ["purple", "PURPLE", "one"]),
        ("(zebra) a zebra. zebra!", ["zebra"]),
        ("a well-lit toy", ["well-lit"]),
        ("  b\u00e4r \U0001f9f8\ta toy ?", ["b\u00e4r", "\U0001f9f8", "?"]),
    ],
)
def test_unknown_words_are_named_as_they_are_written(tokenizer: Any, prompt: str, expected: list[str]) -> None:
    assert unknown_words(tokenizer, prompt) == expected


def test_who_goes_byte_by_byte_knows_every_word(internvl3_checkpoint: Path, qwen_checkpoint: Path) -> None:
    for encoder in (
        InternVL3(InternVL3.Config(checkpoint=str(internvl3_checkpoint))),
        Qwen25VL(Qwen25VL.Config(checkpoint=str(qwen_checkpoint))),
    ):
        assert isinstance(encoder, KnowsWords)
        assert encoder.unknown_words("a zebra, ein B\u00e4r, \u718a \U0001f9f8") == []
